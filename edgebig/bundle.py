"""Bundle: the artifact on disk. A directory of files and ``manifest.json``, which names, sizes and hashes each.

The layout is described in ``docs/bundle-format.md``. Reading one needs the standard library alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from edgebig.errors import BundleError, OutputError
from edgebig.spec import TensorSpec

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
PREPROCESS = "processor/preprocess.json"
_CHUNK = 1 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class File:
    """Size in bytes and SHA-256 (hexadecimal) of one file of the bundle."""

    bytes: int
    sha256: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> File:
        """The inverse of ``asdict``."""
        file = cls(**data)
        _must_be(int, bytes=file.bytes)
        _must_be(str, sha256=file.sha256)
        return file


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        path: its file in the bundle.
        kind: ``tensorrt``, ``tensorrt-rtx`` or ``onnxruntime`` (a graph optimized for one CPU architecture).
        version: the builder's version; an engine of TensorRT runs on that one alone.
        hardware: compute capabilities (``8.9``), or the CPU architecture (``x86_64``).
    """

    path: str
    kind: str
    version: str
    hardware: tuple[str, ...]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Engine:
        """The inverse of ``asdict``."""
        _must_be(list, hardware=data["hardware"])
        engine = cls(**{**data, "hardware": tuple(data["hardware"])})
        _must_be(str, path=engine.path, kind=engine.kind, version=engine.version)
        return engine


@dataclass(frozen=True)
class Part:
    """One graph of the model: most models have the part ``model`` alone, an encoder-decoder has several.

    Attributes:
        inputs, outputs: specs in the graph's order.
        graph: the portable ONNX graph, in the target's precision.
        opset: its ONNX opset.
        quantized: whether it holds Q/DQ pairs (reference runs then use ONNX Runtime's BASIC level).
        precision: element counts of the graph's weights by number format.
        engines: engines built from ``graph``.
        profiles: for each dynamic input, its ``min``, ``opt`` and ``max`` shapes.
        original: the graph as it was before quantization and lowering, where kept.
        golden: ``.npz`` with arrays ``in.NAME.I`` and ``out.NAME.I``: inputs, and the original's outputs.
        calibration: JSON file with the ranges, where the part was calibrated.
        similarity: for each output, how near this part is to the original on the golden inputs.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph: str
    opset: int
    quantized: bool = False
    precision: dict[str, int] = field(default_factory=dict)
    engines: tuple[Engine, ...] = ()
    profiles: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    original: str | None = None
    golden: str | None = None
    calibration: str | None = None
    similarity: dict[str, dict[str, float]] = field(default_factory=dict)

    def files(self) -> list[str]:
        """The names of its files."""
        named = [self.graph, self.original, self.golden, self.calibration, *(e.path for e in self.engines)]
        return [name for name in named if name is not None]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Part:
        """The inverse of ``asdict``."""
        return cls(
            **{
                **data,
                "inputs": tuple(_spec(s) for s in data["inputs"]),
                "outputs": tuple(_spec(s) for s in data["outputs"]),
                "engines": tuple(Engine.from_json(e) for e in data.get("engines", ())),
                "similarity": {
                    output: {measure: float(value) for measure, value in found.items()}
                    for output, found in data.get("similarity", {}).items()
                },
            }
        )


@dataclass(frozen=True)
class Stage:
    """How one stage of the compile went.

    Attributes:
        name: ``source``, ``graph``, ``calibrate``, ``quantize``, ``build`` or ``verify``.
        seconds: wall time.
        peak_memory_bytes: the process's peak resident memory during the stage.
        notes: what the stage did, one line each.
        declined: what it left undone, and why.
    """

    name: str
    seconds: float
    peak_memory_bytes: int
    notes: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What ``manifest.json`` holds.

    Attributes:
        name: the model's name.
        precision: the precision that was asked.
        target: the target's row, as plain data.
        recipe: the recipe, as plain data.
        source: ``kind`` (``huggingface``, ``onnx``, ``torch``), ``name``, ``task`` and ``sha256`` of what was compiled.
        parts: the model's graphs by name.
        stages: how the compile went.
        versions: version of each tool that took part.
        files: every file of the bundle but the manifest.
        created: UTC time, ISO 8601.
        schema_version: of this layout.
    """

    name: str
    precision: str
    target: dict[str, Any]
    recipe: dict[str, Any]
    source: dict[str, Any]
    parts: dict[str, Part]
    stages: tuple[Stage, ...]
    versions: dict[str, str]
    created: str
    files: dict[str, File] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """As plain data. A number that JSON lacks is a string: ``Infinity``, ``-Infinity`` or ``NaN``."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    @classmethod
    def from_json(cls, data: Any) -> Manifest:
        """The inverse of :meth:`to_json`.

        Raises:
            BundleError: the data is no manifest, of an unknown version, or names a path outside the bundle.
        """
        if not isinstance(data, dict) or "schema_version" not in data:
            raise BundleError("the manifest has no schema_version: this is not a bundle of edgebig")
        if type(data["schema_version"]) is not int or data["schema_version"] != SCHEMA_VERSION:
            raise BundleError(
                f"the manifest is of schema version {data['schema_version']!r}, this edgebig reads {SCHEMA_VERSION}: "
                "update edgebig, or compile the model again"
            )
        try:
            manifest = cls(
                **{
                    **data,
                    "parts": {k: Part.from_json(v) for k, v in data["parts"].items()},
                    "stages": tuple(
                        Stage(**{**s, "notes": tuple(s["notes"]), "declined": tuple(s["declined"])})
                        for s in data["stages"]
                    ),
                    "files": {k: File.from_json(v) for k, v in data["files"].items()},
                }
            )
            _must_be(dict, target=manifest.target, recipe=manifest.recipe, source=manifest.source)
            _must_be(str, name=manifest.name, precision=manifest.precision)
            named = [name for part in manifest.parts.values() for name in part.files()]
            for name in [*manifest.files, *named]:
                _check_inside(name)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise BundleError(f"the manifest is damaged: {type(error).__name__}: {error}") from error
        missing = sorted(set(named) - set(manifest.files))
        if missing:
            raise BundleError(f"the manifest names {missing[0]} but holds no hash of it")
        return manifest


class Bundle:
    """A bundle on disk. No file of it is handed out before its hash was checked."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._checked: set[str] = set()

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Bundle:
        """Reads the manifest of the bundle at ``path``.

        Raises:
            BundleError: there is no bundle, or its manifest is damaged or of an unknown version.
        """
        folder = Path(path)
        try:
            data = _read_json((folder / MANIFEST).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError) as error:
            found = "a folder without manifest.json" if folder.is_dir() else "no such folder"
            raise BundleError(f"{folder} is not a bundle ({found}): 'edgebig compile' makes one") from error
        except OSError as error:
            raise BundleError(f"cannot read {folder / MANIFEST}: {error.strerror}") from error
        except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a key given twice
            raise BundleError(f"{folder / MANIFEST} is not JSON: {error}: copy the bundle anew") from error
        try:
            return cls(folder, Manifest.from_json(data))
        except BundleError as error:
            raise BundleError(f"{folder}: {error}") from error

    def part(self, name: str | None = None) -> Part:
        """The part of that name; without a name the only one.

        Raises:
            BundleError: no such part, or several and no name.
        """
        parts = self.manifest.parts
        if name is None and len(parts) == 1:
            return next(iter(parts.values()))
        if name is None or name not in parts:
            asked = "name one of its parts" if name is None else f"it has no part {name!r}"
            raise BundleError(f"{self.path}: {asked}: {', '.join(parts)}")
        return parts[name]

    def file(self, name: str) -> Path:
        """The path of a file of the bundle, after its size and SHA-256 were checked (once for each file).

        Raises:
            BundleError: the manifest names no such file, or the file differs from it.
        """
        expected = self.manifest.files.get(name)
        if expected is None:
            raise BundleError(f"{self.path}: the manifest names no file {name!r}")
        path = self.path / name
        if name not in self._checked:
            self._check(path, name, expected)
            self._checked.add(name)
        return path

    def verify(self) -> None:
        """Checks every file against the manifest.

        Raises:
            BundleError: a file is missing, differs, or is not in the manifest.
        """
        self._checked.clear()
        for name in self.manifest.files:
            self.file(name)
        extra = sorted(set(_files_below(self.path)) - set(self.manifest.files) - {MANIFEST})
        if extra:
            raise BundleError(f"{self.path}: {extra[0]} is not in the manifest: copy the bundle anew")

    def _check(self, path: Path, name: str, expected: File) -> None:
        try:
            if not path.resolve().is_relative_to(self.path.resolve()):
                raise BundleError(f"{self.path}: {name} leads outside the bundle")
            if path.exists() and not path.is_file():
                raise BundleError(f"{self.path}: {name} is not a regular file: copy the bundle anew")
            found = hash_file(path)
        except OSError as error:
            raise BundleError(f"{self.path}: {name}: {error.strerror}: copy the bundle anew") from error
        except RuntimeError as error:  # how Path.resolve reports a circle of links before Python 3.13
            raise BundleError(f"{self.path}: {name} is a link to itself: copy the bundle anew") from error
        if found != expected:
            raise BundleError(
                f"{self.path}: {name} is not the file of the manifest "
                f"({found.bytes} bytes, SHA-256 {found.sha256[:12]}…, "
                f"expected {expected.bytes} and {expected.sha256[:12]}…): copy the bundle anew"
            )


class BundleWriter:
    """Writes a bundle to a temporary folder beside its goal and renames it into place in one step.

    Used as a context: whatever ends it before :meth:`commit` leaves nothing behind. Errors of the
    file system (disk full, not writable) become :class:`OutputError`.
    """

    def __init__(self, out: str | os.PathLike[str], *, force: bool = False) -> None:
        """Refuses at once what could not be written at the end.

        Raises:
            OutputError: ``out`` exists and ``force`` is not set, or is no bundle that could be
                replaced, or its parent is missing or not writable.
        """
        self.out = Path(os.path.abspath(out))
        self.force = force
        parent = self.out.parent
        if not parent.is_dir():
            raise OutputError(f"cannot write {out}: the folder {parent} does not exist")
        if os.path.lexists(self.out):
            self._refuse_to_replace(out)
        try:
            self.folder = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.", suffix=".partial", dir=parent))
        except OSError as error:
            raise OutputError(f"cannot write {out}: {parent}: {error.strerror}") from error

    def _refuse_to_replace(self, out: str | os.PathLike[str]) -> None:
        if not self.force:
            raise OutputError(f"{out} exists: choose another name, or replace it with --force")
        try:
            is_empty = self.out.is_dir() and not any(self.out.iterdir())
        except OSError as error:
            raise OutputError(f"cannot write {out}: {error.strerror}") from error
        if self.out.is_symlink() or not (is_empty or _is_bundle(self.out)):
            raise OutputError(f"{out} is not a bundle: --force replaces nothing else, remove it by hand")

    def path(self, name: str) -> Path:
        """Where to write the file of that name; its folder is made."""
        _check_inside(name)
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def commit(self, manifest: Manifest) -> Bundle:
        """Hashes and syncs every file, writes the manifest and renames the folder to its goal.

        Raises:
            OutputError: the disk is full, or the goal came into being meanwhile or cannot be replaced.
        """
        try:
            return self._commit(manifest)
        except OSError as error:
            raise self._cannot(error) from error

    def _commit(self, manifest: Manifest) -> Bundle:
        names = sorted(_files_below(self.folder))
        manifest = replace(manifest, files={name: hash_file(self.folder / name) for name in names})
        text = json.dumps(manifest.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        manifest = Manifest.from_json(json.loads(text))  # what is written can be read
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        for name in [*names, MANIFEST]:
            _sync(self.folder / name)
        for folder, _, _ in os.walk(self.folder):
            _sync(Path(folder))
        os.chmod(self.folder, 0o777 & ~_umask())
        self._move_into_place()
        _sync(self.out.parent)
        return Bundle(self.out, manifest)

    def _move_into_place(self) -> None:
        if not os.path.lexists(self.out):
            os.rename(self.folder, self.out)
            return
        self._refuse_to_replace(self.out)
        old = Path(tempfile.mkdtemp(prefix=f".{self.out.name}.", suffix=".old", dir=self.out.parent))
        os.rename(self.out, old / "bundle")
        try:
            os.rename(self.folder, self.out)
        except BaseException:  # Ctrl-C too: the old bundle must not stay hidden
            os.rename(old / "bundle", self.out)
            os.rmdir(old)
            raise
        shutil.rmtree(old, ignore_errors=True)

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in _FULL:
            raise self._cannot(error) from error

    def _cannot(self, error: OSError) -> OutputError:
        advice = ": free some space and compile again" if error.errno in _FULL else ""
        return OutputError(f"cannot write {self.out}: {error.strerror or error}{advice}")


def hash_file(path: Path) -> File:
    """Size and SHA-256 of a file, read in pieces."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return File(size, digest.hexdigest())


def _spec(data: dict[str, Any]) -> TensorSpec:
    _must_be(list, shape=data["shape"])
    spec = TensorSpec.from_json(data)
    if not all(dim is None or isinstance(dim, (int, str)) for dim in spec.shape):
        raise TypeError(f"a shape holds sizes, names and nulls, found {data['shape']}")
    return spec


def _must_be(kind: type, /, **values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, found {value!r:.60}")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _read_json(text: str) -> Any:
    """The text's value. A key given twice is refused: other readers might take the other one."""
    return json.loads(text, object_pairs_hook=_unique)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"an object holds a key twice among {', '.join(key for key, _ in pairs[:20])}")
    return found


def _is_bundle(folder: Path) -> bool:
    """Whether the folder's ``manifest.json`` is ours: web pages and browser extensions have one too."""
    try:
        data = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(data, dict) and {"schema_version", "parts", "files"} <= data.keys()


def _check_inside(name: str) -> None:
    pure = PurePosixPath(name)
    outside = not name or pure.is_absolute() or ".." in pure.parts
    if outside or str(pure) != name or name == MANIFEST or not {"\\", "\0"}.isdisjoint(name):
        raise BundleError(f"the manifest names the path {name!r}, which a bundle may not hold")


def _files_below(folder: Path) -> Iterable[str]:
    for root, _, names in os.walk(folder):
        for name in names:
            yield (Path(root) / name).relative_to(folder).as_posix()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
