"""Manifest: what ``manifest.json`` holds, as typed data. Standard library only."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import asdict, dataclass, field
from typing import Any

from edgebig.errors import BundleError
from edgebig.quick_check import surely_fits
from edgebig.schema import load_schema, mismatch
from edgebig.spec import TensorSpec

SCHEMA_VERSION = 2
SCHEMA = f"manifest-{SCHEMA_VERSION}"
"""Name of the JSON Schema that a manifest must fit, in :mod:`edgebig.schema`."""
MANIFEST = "manifest.json"


_ARCHITECTURES = {"AMD64": "x86_64", "arm64": "aarch64"}  # as Windows and macOS call them


def this_architecture() -> str:
    """This machine's processor, as :attr:`Engine.hardware` names it."""
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


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


BUILT: tuple[str, ...] = ("seconds", "device", "driver", "power_mode", "clocks", "software", "platform")
BUILT += ("hardware_level", "options", "graph", "time")
"""What ``Engine.built`` may hold: seconds that the build took; name of the GPU or Jetson; version of its driver; power
mode and state of the clocks (``locked``, ``free``); JetPack or L4T; operating system and processor; TensorRT's level of
hardware compatibility; key of the build's options; SHA-256 of the graph; UTC time."""


@dataclass(frozen=True)
class Engine:
    """A built engine.

    Attributes:
        path: its file in the bundle.
        kind: ``tensorrt``, ``tensorrt-rtx`` or ``onnxruntime`` (a graph optimized for one CPU architecture).
        version: the builder's version; an engine of TensorRT runs on that one alone.
        hardware: compute capabilities (``8.9``), or the CPU architecture (``x86_64``).
        profiles: the sets of shapes that it was built for: each dynamic input's ``min``, ``opt`` and ``max``.
        version_compatible: whether later versions of TensorRT run it too.
        hardware_compatible: whether every GPU from compute capability 8.0 runs it.
        dla: the deep learning accelerator core that it uses, if any.
        stripped: whether it holds no weights: the part's graph gives them when it is loaded.
        weight_streaming: for an engine whose weights may stay in the processor's memory, how many bytes of them the
            GPU keeps, or ``auto``; ``None`` for others.
        built: how and where it was built, as plain data: information that may grow. :data:`BUILT` names what
            edgebig writes.
    """

    path: str
    kind: str
    version: str
    hardware: tuple[str, ...]
    profiles: tuple[dict[str, dict[str, list[int]]], ...] = ()
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla: int | None = None
    stripped: bool = False
    weight_streaming: int | str | None = None
    built: dict[str, Any] | None = None

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Engine:
        """The inverse of ``asdict``."""
        profiles = data.get("profiles", [])
        _must_be(list, hardware=data["hardware"], profiles=profiles)
        engine = cls(**{**data, "hardware": tuple(data["hardware"]), "profiles": tuple(profiles)})
        _must_be(str, path=engine.path, kind=engine.kind, version=engine.version)
        _must_be(bool, version_compatible=engine.version_compatible, hardware_compatible=engine.hardware_compatible)
        _must_be(bool, stripped=engine.stripped)
        if engine.weight_streaming not in (None, "auto"):
            _must_be(int, weight_streaming=engine.weight_streaming)
        for capability in engine.hardware:
            _must_be(str, hardware=capability)
        for profile in engine.profiles:
            _must_be(dict, profiles=profile)
        if engine.dla is not None:
            _must_be(int, dla=engine.dla)
        if engine.built is not None:
            _must_be(dict, built=engine.built)
        return engine


@dataclass(frozen=True)
class Part:
    """One graph of the model: most models have the part ``model`` alone, an encoder-decoder has several.

    Attributes:
        inputs, outputs: specs in the graph's order.
        graph: the portable ONNX graph, in the target's precision.
        opset: its ONNX opset.
        quantized: whether it holds Q/DQ pairs (reference runs then turn ONNX Runtime's optimizations off).
        precision: element counts of the graph's weights by number format.
        engines: engines built from ``graph``.
        profiles: for each dynamic input, its ``min``, ``opt`` and ``max`` shapes.
        more_profiles: further sets of them that an engine is built for (prefill beside decode).
        original: the graph as it was before quantization and lowering, where kept.
        golden: ``.npz`` with arrays ``in.NAME.I`` and ``out.NAME.I``: inputs, and the original's outputs.
        calibration: JSON file with the ranges, where the part was calibrated.
        similarity: for each output, how near this part is to the original on the golden inputs.
        sizes: ``weight_bytes``, ``activation_bytes`` (the most that lives at once, at the largest
            shapes) and ``nodes``, as far as they are known: what a device's memory and build time are estimated from.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    graph: str
    opset: int
    quantized: bool = False
    precision: dict[str, int] = field(default_factory=dict)
    engines: tuple[Engine, ...] = ()
    profiles: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    more_profiles: tuple[dict[str, dict[str, list[int]]], ...] = ()
    original: str | None = None
    golden: str | None = None
    calibration: str | None = None
    similarity: dict[str, dict[str, float]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    def files(self) -> list[str]:
        """The names of its files."""
        named = [self.graph, self.original, self.golden, self.calibration, *(e.path for e in self.engines)]
        return [name for name in named if name is not None]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Part:
        """The inverse of ``asdict``, of data that the manifest's schema allows."""
        return cls(
            **{
                **data,
                "more_profiles": tuple(data.get("more_profiles", ())),
                "inputs": tuple(TensorSpec.from_json(s) for s in data["inputs"]),
                "outputs": tuple(TensorSpec.from_json(s) for s in data["outputs"]),
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
        plain: dict[str, Any] = finite(asdict(self))
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
        wrong = None if surely_fits(data) else mismatch(data, load_schema(SCHEMA))
        if wrong is not None:
            raise BundleError(f"the manifest is damaged: {wrong}")
        manifest = cls(
            **{
                **data,
                "parts": {k: Part.from_json(v) for k, v in data["parts"].items()},
                "stages": tuple(
                    Stage(s["name"], s["seconds"], s["peak_memory_bytes"], tuple(s["notes"]), tuple(s["declined"]))
                    for s in data["stages"]
                ),
                "files": {k: File(v["bytes"], v["sha256"]) for k, v in data["files"].items()},
            }
        )
        named = [name for part in manifest.parts.values() for name in part.files()]
        missing = sorted(set(named) - set(manifest.files))
        if missing:
            raise BundleError(f"the manifest names {missing[0]} but holds no hash of it")
        return manifest


def _must_be(kind: type, /, **values: Any) -> None:
    for name, value in values.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, found {value!r:.60}")


def finite(value: Any) -> Any:
    """Plain data with the numbers that JSON lacks as strings: ``Infinity``, ``-Infinity`` and ``NaN``."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def read_json(text: str) -> Any:
    """The text's value. A key given twice is refused: other readers might take the other one.

    So is half of a surrogate pair, which only an escape can hold: other readers have no such strings.

    Raises:
        ValueError: it is not JSON, or one of these.
        RecursionError: it is nested too deeply.
    """
    value = _JSON.decode(text) if text[:1] != "\ufeff" else json.loads(text)  # which says what is wrong
    if "\\u" in text:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(f"an object holds a key twice among {', '.join(key for key, _ in pairs[:20])}")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_number)


def check_inside(name: str) -> None:
    """Refuses a file name that is no plain path inside the bundle.

    Raises:
        BundleError: absolute, with ``..``, not normal, with a backslash or a control character, or the manifest itself.
    """
    if mismatch(name, load_schema(SCHEMA)["$defs"]["path"]) is not None:
        raise BundleError(f"a bundle may not hold the path {name!r}")
