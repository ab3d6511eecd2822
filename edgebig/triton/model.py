"""What Triton serves for each part of a bundle: the file, and its configuration.

The fields are those of ModelConfig in github.com/triton-inference-server/common, protobuf/model_config.proto; what a
backend makes of them is said in docs/user_guide/model_configuration.md of triton-inference-server/server and in the
README of triton-inference-server/onnxruntime_backend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from edgebig.bundle import Bundle, Engine, Part
from edgebig.errors import BundleError, UsageError
from edgebig.runtime.golden import golden
from edgebig.spec import Dim, TensorSpec
from edgebig.states import find_states
from edgebig.triton.text import Message, Symbol

Backend = Literal["auto", "tensorrt", "onnxruntime"]

MAX_BATCH = 8
"""The largest batch where the bundle gives no range of shapes."""

_IDLE_MICROSECONDS = 60_000_000
_SEQUENCES = 64
_NO_OPTIMIZATION = 2
"""Of ``optimization.graph.level``: the ONNX Runtime backend then disables its graph optimizations."""

_TYPES = {
    **{"bool": "TYPE_BOOL", "string": "TYPE_STRING", "bfloat16": "TYPE_BF16"},
    **{f"{kind}{bits}": f"TYPE_{kind.upper()}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"TYPE_FP{bits}" for bits in (16, 32, 64)},
}
_BATCH = re.compile(r"^(n|b|bs|.*batch.*)$", re.IGNORECASE)
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")

Profiles = Sequence[Mapping[str, Mapping[str, Sequence[int]]]]


@dataclass(frozen=True)
class Asked:
    """What :func:`triton_models` was asked for every part."""

    backend: Backend = "auto"
    max_batch: int | None = None
    instances: int = 1
    labels: Sequence[str] = ()


@dataclass(frozen=True)
class TritonModel:
    """One model of a repository.

    Attributes:
        name: of the model and its folder.
        part: the bundle's part that it serves.
        platform: ``tensorrt_plan`` or ``onnxruntime_onnx``.
        max_batch: the largest batch that Triton may put together; 0 where the first axis is not the batch everywhere.
        config: the fields of ``config.pbtxt``.
        files: for each file of the version's folder, the bundle's file that it is a copy of.
        warmup: for each file of the folder ``warmup``, its content.
        labels: for each file with names of classes, its lines.
        notes: what was left out, and what to know of it, one line each.
    """

    name: str
    part: str
    platform: str
    max_batch: int
    config: Message
    files: Mapping[str, str]
    warmup: Mapping[str, bytes] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def triton_models(
    bundle: Bundle,
    *,
    name: str | None = None,
    backend: Backend = "auto",
    max_batch: int | None = None,
    instances: int = 1,
    labels: Sequence[str] = (),
) -> list[TritonModel]:
    """A model for each part of the bundle; those of a bundle with several are called ``NAME_PART``.

    Args:
        bundle: what to serve. Golden inputs are read from it, and become the requests that warm a model up.
        name: of the model; the bundle's own by default, with ``_`` for what a name may not hold.
        backend: ``tensorrt`` serves the part's engine of TensorRT, ``onnxruntime`` its portable graph; ``auto`` the
            engine where there is one.
        max_batch: the largest batch; by default the largest of the shapes that the part was compiled for.
        instances: copies of the model that run at once, on each GPU.
        labels: names of the classes, for an output whose last axis has as many.

    Raises:
        UsageError: the name may not be used, or the bundle has no engine of TensorRT.
        BundleError: a tensor's dtype is none of Triton's, or it is a scalar; or the golden inputs are damaged.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise UsageError(f"a model's name holds letters, digits, '_', '.' and '-', found {name!r}")
    asked = Asked(backend, max_batch, instances, labels)
    base = name or re.sub(r"[^A-Za-z0-9_.-]+", "_", bundle.manifest.name).lstrip("._-") or "model"
    several = len(bundle.manifest.parts) > 1
    made = []
    for part in bundle.manifest.parts:
        called = re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{base}_{part}") if several else base
        made.append(_model(bundle, part, called, asked))
    names = [model.name for model in made]
    if len(set(names)) < len(names):
        raise UsageError(f"two parts would both be called {max(names, key=names.count)}: {', '.join(names)}")
    return made


def _model(bundle: Bundle, name: str, called: str, asked: Asked) -> TritonModel:
    part, notes = bundle.part(name), list[str]()
    engine = _engine(bundle, name, asked.backend, notes)
    platform = "onnxruntime_onnx" if engine is None else "tensorrt_plan"
    derived = [shapes for shapes in (part.profiles, *part.more_profiles) if shapes]
    profiles: Profiles = derived if engine is None else engine.profiles
    states = _states(bundle, part, notes)
    largest = _max_batch([*part.inputs, *part.outputs], part.inputs, profiles, asked.max_batch, notes)
    config: dict[str, Any] = {"name": called, "platform": platform, "max_batch_size": largest}
    files, main = _files(bundle, part, engine)
    if main != ("model.plan" if engine is not None else "model.onnx"):
        config["default_model_filename"] = main
    shown = [spec for spec in part.outputs if spec.name not in states.values()]
    labelled = {
        spec.name: re.sub(r"[^A-Za-z0-9_.-]+", "_", f"{spec.name}.labels.txt")
        for spec in shown
        if asked.labels and spec.shape[-1:] == (len(asked.labels),)
    }
    config["input"] = [_tensor(spec, largest) for spec in part.inputs if spec.name not in states]
    config["output"] = [
        {**_tensor(spec, largest), **({"label_filename": labelled[spec.name]} if spec.name in labelled else {})}
        for spec in shown
    ]
    gpu = bundle.manifest.target.get("compute_capability") is not None
    group: dict[str, Any] = {"count": asked.instances, "kind": Symbol("KIND_GPU" if gpu else "KIND_CPU")}
    if engine is not None and len(engine.profiles) > 1:
        group["profile"] = [str(number) for number in range(len(engine.profiles))]
    config["instance_group"] = [group]
    if engine is None and part.quantized and bundle.manifest.target.get("engine") != "host":
        config["optimization"] = {"graph": {"level": _NO_OPTIMIZATION}}
    warmup: dict[str, bytes] = {}
    if states:
        config["sequence_batching"] = _sequence(part, states, largest)
        notes.append(f"{called}: {', '.join(states)}: state that Triton keeps for each sequence, zeros at its start")
        notes.append(f"{called}: no warm-up: it would need a sequence of its own")
    else:
        if largest > 1:
            config["dynamic_batching"] = {}
        warmup, requests = _warmup(bundle, name, called, largest, notes)
        config["model_warmup"] = requests
    unique = {file: list(asked.labels) for file in labelled.values()}
    return TritonModel(called, name, platform, largest, config, files, warmup, unique, tuple(notes))


def _engine(bundle: Bundle, name: str, backend: Backend, notes: list[str]) -> Engine | None:
    engines = bundle.part(name).engines
    found = next((engine for engine in engines if engine.kind == "tensorrt" and not engine.stripped), None)
    if found is not None and backend != "onnxruntime":
        where = ", ".join(found.hardware)
        notes.append(
            f"{name}: engine of TensorRT {found.version} for compute capability {where}: Triton needs that TensorRT"
        )
        if found.version_compatible:
            notes.append(
                f"{name}: version-compatible, but Triton takes lean runtimes out of engines alone, and it holds none"
            )
        return found
    if backend == "tensorrt":
        others = ", ".join(dict.fromkeys(engine.kind for engine in engines)) or "none"
        raise UsageError(
            f"{bundle.path}: Triton's backend runs engines of TensorRT, the part {name} has none with its weights "
            f"(engines: {others}): run 'edgebig finish' where that TensorRT is, or take --backend onnxruntime"
        )
    if any(engine.stripped for engine in engines):
        notes.append(f"{name}: an engine without its weights was passed over: Triton cannot give them to it")
    if any(engine.kind == "tensorrt-rtx" for engine in engines):
        notes.append(f"{name}: Triton has no backend for TensorRT-RTX: the portable graph is served by ONNX Runtime")
    elif bundle.manifest.target.get("compute_capability") is not None:
        notes.append(
            f"{name}: no engine of TensorRT in the bundle, ONNX Runtime serves the portable graph: 'edgebig finish' in "
            "Triton's own container builds one, then export again"
        )
    return None


def _files(bundle: Bundle, part: Part, engine: Engine | None) -> tuple[dict[str, str], str]:
    """The version's files with their sources, and the name of the one that Triton opens.

    A graph with external data keeps its name, since the graph names that file.
    """
    if engine is not None:
        return {"model.plan": engine.path}, "model.plan"
    beside = [file for file in bundle.manifest.files if file.startswith(part.graph) and file != part.graph]
    if not beside:
        return {"model.onnx": part.graph}, "model.onnx"
    folder = part.graph.rpartition("/")[0]
    names = {file: file[len(folder) + 1 if folder else 0 :] for file in (part.graph, *beside)}
    return {names[file]: file for file in names}, names[part.graph]


def _states(bundle: Bundle, part: Part, notes: list[str]) -> dict[str, str]:
    """Inputs that Triton keeps between the requests of a sequence, with the outputs that they come from."""
    inputs, outputs = {s.name: s for s in part.inputs}, {s.name: s for s in part.outputs}
    asked = bundle.manifest.recipe.get("state") or find_states(part.inputs, part.outputs)
    found = {}
    for name, output in asked.items():
        if name not in inputs or output not in outputs:
            continue
        sizes = [*inputs[name].shape[1:], *outputs[output].shape[1:]]
        if inputs[name].shape and all(isinstance(size, int) for size in sizes):
            found[name] = output
        else:
            notes.append(f"{name}: a state of no fixed size, which stays an input and an output")
    return found


def _max_batch(
    specs: Sequence[TensorSpec], inputs: Sequence[TensorSpec], profiles: Profiles, asked: int | None, notes: list[str]
) -> int:
    """The largest batch; 0 where Triton cannot put requests together."""
    firsts = {spec.shape[0] if spec.shape else None for spec in specs}
    (axis, *others) = firsts or {None}
    if others or not isinstance(axis, str) or not _BATCH.match(axis):
        if asked:
            shown = " and ".join(sorted(map(str, firsts)))
            raise UsageError(
                f"--max-batch {asked}: the first axis of each input and output must be the batch, found {shown}"
            )
        return 0
    ranges = [shapes[spec.name] for shapes in profiles for spec in inputs if spec.name in shapes]
    least = max((shape["min"][0] for shape in ranges), default=1)
    most = min((shape["max"][0] for shape in ranges), default=0)
    if least > 1:
        notes.append(f"no batching: it was compiled for batches of {least} or more, and Triton may send one of 1")
        return 0
    if asked is not None:
        if ranges and asked > most:
            raise UsageError(f"--max-batch {asked}: the shapes that it was compiled for go to a batch of {most}")
        return asked
    return most or MAX_BATCH


def _tensor(spec: TensorSpec, max_batch: int) -> dict[str, Any]:
    dims = _dims(spec.shape[1:] if max_batch else spec.shape)
    if not dims and not max_batch:
        raise BundleError(
            f"Triton serves no scalar, and {spec.name} is one: compile the model with --freeze {spec.name}=VALUE, "
            "or with an axis of size 1"
        )
    made: dict[str, Any] = {"name": spec.name, "data_type": _type(spec), "dims": dims or [1]}
    return made if dims else {**made, "reshape": {}}  # a scalar for each row: [1] is reshaped to []


def _dims(shape: Sequence[Dim]) -> list[int]:
    return [dim if isinstance(dim, int) else -1 for dim in shape]


def _type(spec: TensorSpec) -> Symbol:
    if spec.dtype not in _TYPES:
        raise BundleError(f"Triton has no type for {spec.name}: {spec.dtype}: its types are {', '.join(_TYPES)}")
    return Symbol(_TYPES[spec.dtype])


def _sequence(part: Part, states: Mapping[str, str], max_batch: int) -> Message:
    specs = {spec.name: spec for spec in part.inputs}
    made = []
    for name, output in states.items():
        shape = specs[name].shape[1:] if max_batch else specs[name].shape
        dims = [dim if isinstance(dim, int) else 1 for dim in shape] or [1]
        start = {"data_type": _type(specs[name]), "dims": dims, "zero_data": True, "name": "zeros"}
        made.append(
            {
                **{"input_name": name, "output_name": output, "data_type": _type(specs[name])},
                **{"dims": _dims(shape) or [1], "initial_state": start},
            }
        )
    return {
        "max_sequence_idle_microseconds": _IDLE_MICROSECONDS,
        "oldest": {"max_candidate_sequences": _SEQUENCES},
        "state": made,
    }


def _warmup(
    bundle: Bundle, name: str, called: str, max_batch: int, notes: list[str]
) -> tuple[dict[str, bytes], list[Message]]:
    """Requests of the first golden inputs: one row, and the largest batch of it; all rows where there is no batch."""
    part = bundle.part(name)
    pairs = golden(bundle, name)
    if not pairs or any(spec.dtype == "string" or spec.name not in pairs[0][0] for spec in part.inputs):
        notes.append(f"{called}: no warm-up: the bundle keeps no golden inputs for it")
        return {}, []
    contents: dict[str, bytes] = {}
    inputs = []
    for number, spec in enumerate(part.inputs):
        array = pairs[0][0][spec.name]
        if spec.dtype != "bfloat16" and array.dtype != np.dtype(spec.dtype):
            raise BundleError(f"{bundle.path}: the golden input {spec.name} is {array.dtype}, not {spec.dtype}")
        row = array[0] if max_batch else array
        file = f"{number}.bin"
        contents[file] = np.ascontiguousarray(row).astype(row.dtype.newbyteorder("<"), copy=False).tobytes()
        value = {"data_type": _type(spec), "dims": list(row.shape) or [1], "input_data_file": file}
        inputs.append({"key": spec.name, "value": value})
    sizes = dict.fromkeys((1, max_batch or 1))
    return contents, [{"name": f"golden-{size}", "batch_size": size, "inputs": inputs} for size in sizes]
