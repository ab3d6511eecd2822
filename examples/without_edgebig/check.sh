#!/usr/bin/env bash
# Checks a bundle and chooses what to run, with nothing of edgebig: a JSON parser (Python's own), sha256sum, realpath.
#
#   check.sh BUNDLE [PART]
#
# Prints one line, parted by tabs: the portable graph, the file with golden inputs (- without one), and "all" or "off", the
# graph optimizations that ONNX Runtime may use. docs/bundle-format.md has the rules by number.
set -euo pipefail

bundle=${1:?usage: check.sh BUNDLE [PART]}
part=${2:-}
root=$(realpath -e -- "$bundle")

# Rules 1, 2 and 3: lines "C<TAB>bytes<TAB>sha256<TAB>path" for the files and "G<TAB>graph<TAB>golden<TAB>level" for the choice.
plan=$(python3 -I - "$root/manifest.json" "$part" <<'EOF'
import json, re, sys

def fail(reason):
    sys.exit(f"check.sh: {sys.argv[1]}: {reason}")

def unique(pairs):
    if len(dict(pairs)) != len(pairs):
        fail("a key is given twice")
    return dict(pairs)

try:
    manifest = json.loads(open(sys.argv[1], encoding="utf-8").read(), object_pairs_hook=unique)
except (OSError, ValueError) as error:
    fail(error)
if not isinstance(manifest, dict) or manifest.get("schema_version") != 2:
    fail("schema_version is not 2")
files, parts = manifest["files"], manifest["parts"]
for name in files:
    steps = name.split("/")
    if {"", ".", ".."} & set(steps) or re.search(r"[\x00-\x1f\x7f\\]", name) or name == "manifest.json":
        fail(f"it names the path {name!r}")
name = sys.argv[2] or (next(iter(parts)) if len(parts) == 1 else "")
if name not in parts:
    fail(f"name one of its parts: {', '.join(parts)}")
part = parts[name]
graph, golden = part["graph"], part.get("golden")
for path in filter(None, (graph, golden)):
    if path not in files:
        fail(f"no hash of {path}")
for path, entry in files.items():
    print("C", entry["bytes"], entry["sha256"], path, sep="\t")
strict = part.get("quantized", False) and manifest["target"]["engine"] != "host"
print("G", graph, golden or "-", "off" if strict else "all", sep="\t")
EOF
)

# Rule 4: inside the folder, a regular file, of that size and that SHA-256.
sums=
while IFS=$'\t' read -r kind bytes sha256 path; do
    [ "$kind" = C ] || continue
    real=$(realpath -e -- "$root/$path") || exit 1
    [ "${real#"$root"/}" != "$real" ] || { echo "check.sh: $path leads outside the bundle" >&2; exit 1; }
    [ -f "$real" ] || { echo "check.sh: $path is not a regular file" >&2; exit 1; }
    [ "$(stat -c %s -- "$real")" = "$bytes" ] || { echo "check.sh: $path has another size" >&2; exit 1; }
    sums+="$sha256  $path"$'\n'
done <<<"$plan"
(cd -- "$root" && printf %s "$sums" | sha256sum --check --strict --quiet) >&2

grep -P '^G\t' <<<"$plan" | cut -f2-
