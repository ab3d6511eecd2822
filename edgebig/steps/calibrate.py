"""Chooses golden inputs, and collects ranges where the precision needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edgebig import __version__
from edgebig.cache import CacheFile, cache_folder, fingerprint, key_of
from edgebig.calibrate import (
    METHODS,
    Checkpoint,
    Feedback,
    GeneratedText,
    MinMax,
    NoFeedback,
    RecurrentState,
    Samples,
    SetCheck,
    collect,
    describe,
    find_states,
    open_samples,
    unstable,
)
from edgebig.calibrate.data.samples import Located
from edgebig.errors import CalibrationError, GraphError, RecipeError, UsageError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level, best_device
from edgebig.preprocess import Preprocess
from edgebig.quantize import clamp_masks, observed_tensors, planned_tensors
from edgebig.request import Request
from edgebig.resources import data_folder
from edgebig.source import Source
from edgebig.spec import TensorSpec
from edgebig.stages import StageNotes
from edgebig.steps.examples import best_shapes, fit_examples
from edgebig.steps.plans import plan_suffices
from edgebig.steps.preparers import preparers_for
from edgebig.steps.repair import repair_part
from edgebig.steps.synthetic import SYNTHETIC, synthetic_for
from edgebig.steps.work import PartWork, Sample
from edgebig.verify import Answers, Golden, made_inputs, outputs_of

_CALIBRATED = {"int8", "fp8"}
_DISTANCE = 8
_GENERATED = 8
"""Tokens that a decoder writes after each calibration text."""

_MOST_WARNINGS = 4
_TRIAL = 16
"""Held-out inputs that a search measures plans with."""

_OTHER = {"sources", "__pycache__"}
_READY_FILES = {".npz", ".txt"}
_RANGED = {*_CALIBRATED, "fp16", "auto"}


def calibrate_part(part: PartWork, source: Source, request: Request, notes: StageNotes) -> None:
    """Sets ``golden`` and, where the precision needs them, ``ranges`` and ``calibration``."""
    recipe = request.recipe
    data = _data_for(part, source, request)
    needs_data = data is None and recipe.precision in _CALIBRATED and not part.own_ranges
    if needs_data and not plan_suffices(part, request):
        raise CalibrationError(
            f"--precision {recipe.precision} needs samples of what {part.name} will see: give --calib "
            "(.npy, .npz, a folder of pictures, a text file, ready:sentences, or synthetic where there is nothing)"
        )
    feedback = _feedback(part, request)
    if data is None and not part.source.examples:
        # made inputs hold a cache, and may be as long as the model takes
        feedback = NoFeedback()
    chosen = _made(part, request) if data is None else _real(part, source, request, data, feedback, notes)
    answers = Answers(lambda: _answers(part, chosen, is_made=data is None))
    part.golden = Golden(chosen.golden, answers, chosen.origin)
    if len(chosen.trial) > len(chosen.golden):
        part.trial = Golden(chosen.trial, outputs_of(part.graph, chosen.trial, "all"), chosen.origin)
    part.samples = _Whole(chosen.samples, feedback) if data is not None else None
    is_ranged = recipe.precision in _RANGED and (request.target.is_nvidia or data is not None)
    if is_ranged:
        if data is not None and recipe.precision in {*_CALIBRATED, "auto"}:
            repair_part(part, request, "int8" if recipe.precision == "auto" else recipe.precision, notes)
        is_own = data is None and bool(part.own_ranges) and recipe.precision in _CALIBRATED
        _collect(part, request, chosen, feedback, notes, is_own=is_own)
        if is_own:
            _take_own(part, notes)
    else:
        notes.note(f"{part.name}: {recipe.precision} needs no ranges; {len(chosen.golden)} golden inputs")
    if is_ranged and data is None and not part.own_ranges:
        notes.decline(
            f"{part.name}: ranges come from {chosen.origin}, not from real data: give --calib to make sure of them"
        )


def _take_own(part: PartWork, notes: StageNotes) -> None:
    """Quantizes with the scales that the model came with, and nothing that had none."""
    if part.ranges is None or part.own_ranges is None:
        raise RuntimeError("ranges are collected first")
    part.ranges = replace(part.ranges, by_tensor=part.own_ranges, method="own", source="the model's own scales")
    part.calibration = {**(part.calibration or {}), **part.ranges.to_json()}
    notes.note(f"{part.name}: the scales of {len(part.own_ranges)} tensors are those that the model came with")


@dataclass(frozen=True)
class _Chosen:
    """Golden inputs, samples for calibration, and where they come from.

    Attributes:
        trial: held-out inputs for a search, the golden ones among them; empty where nothing is searched.
        path: the data's file or folder.
        processor: the folder of what prepares it.
    """

    golden: list[Sample]
    samples: Iterable[Located]
    origin: str
    trial: Sequence[Sample] = ()
    path: Path | None = None
    processor: Path | None = None


@dataclass(frozen=True)
class _Whole:
    """The samples with what a model with state would be given beside them."""

    samples: Iterable[Located]
    feedback: Feedback

    def __iter__(self) -> Iterator[Sample]:
        for where, sample in self.samples:
            yield self.feedback.begin(where, sample)
        self.feedback.restore({})


def _answers(part: PartWork, chosen: _Chosen, *, is_made: bool) -> list[Sample]:
    """What the original answers on the golden inputs."""
    # fused integer operators round elsewhere than the Q/DQ pairs of a graph that comes quantized
    level: Level = "basic" if any(node.op_type == "QuantizeLinear" for node in part.graph.nodes()) else "all"
    try:
        return outputs_of(part.source.original, chosen.golden, level, part.frozen, part.source.answers)
    except GraphError as error:
        if not is_made or part.source.examples:
            raise
        shapes = ",".join(f"{n}:{'x'.join(map(str, a.shape)) or 'scalar'}" for n, a in chosen.golden[0].items())
        raise UsageError(
            f"{part.name} does not take made inputs of the shapes {shapes}: give --shapes that it takes, or --calib "
            f"with real inputs ({error})"[:600]
        ) from error


def _made(part: PartWork, request: Request) -> _Chosen:
    examples = list(part.source.examples)
    if not examples:
        sets = part.profile_sets or ({},)
        each = -(-request.recipe.golden // len(sets))
        examples = [made for one in sets for made in made_inputs(part.graph, best_shapes(one), each)]
    examples = [{s.name: e[s.name] for s in part.graph.inputs} for e in examples]
    # an engine takes its own shapes alone, ONNX Runtime any
    is_host = request.target.engine == "host"
    examples = fit_examples(examples, part.profile_sets, part.graph.inputs, any_size=is_host)
    return _Chosen(examples, [(f"example {i}", e) for i, e in enumerate(examples)], "made inputs")


def _real(
    part: PartWork, source: Source, request: Request, data: Any, feedback: Feedback, notes: StageNotes
) -> _Chosen:
    recipe = request.recipe
    prepare_for = preparers_for(part, source, request)
    held_out = max(recipe.golden, _TRIAL) if recipe.precision == "auto" else recipe.golden
    held = held_out * (_DISTANCE if isinstance(feedback, RecurrentState) else 1)
    count = recipe.calibration.samples + held
    if isinstance(data, str) and data == SYNTHETIC:
        stream = synthetic_for(part, source, prepare_for, count, feedback.carried, notes)
    else:
        stream = open_samples(
            data,
            part.graph.inputs,
            count,
            prepare_for,
            carried=feedback.carried,
            skip_bad=recipe.calibration.skip_bad,
        )
    trial, samples = _hold_out(stream, held_out, part, feedback, notes)
    golden = trial[:: max(1, len(trial) // recipe.golden)][: recipe.golden]
    if recipe.golden_inputs == "synthetic":
        golden = made_inputs(part.graph, best_shapes(part.profiles), recipe.golden)
    path = Path(data) if isinstance(data, str | Path) and Path(data).exists() else None
    return _Chosen(golden, samples, stream.source, trial, path, source.processor)


def _collect(
    part: PartWork, request: Request, chosen: _Chosen, feedback: Feedback, notes: StageNotes, *, is_own: bool
) -> None:
    """Sets the ranges and their report; where the model brings its scales, they only say what FP16 must hold."""
    recipe = request.recipe
    observed = (part.repaired or part.graph).clone()
    if request.target.is_nvidia:
        clamp_masks(observed)
    precision = "int8" if recipe.precision == "auto" else recipe.precision
    planned = planned_tensors(observed, request.target, recipe, precision)
    # FP16 islands may be needed anywhere, scales only where something is quantized
    tensors = observed_tensors(observed) if request.target.is_nvidia else planned
    methods = [METHODS[name]() for name in recipe.calibration.methods]
    counted = planned if any(m.needs_histogram for m in methods) else []
    check = SetCheck(_processor_bounds(part, request))

    def watched() -> Iterator[Located]:
        for where, sample in chosen.samples:
            check.look(sample)
            yield where, sample

    collected = collect(
        observed,
        tensors,
        watched(),
        chosen.origin,
        counted=counted,
        memory=recipe.calibration.memory_mb << 20,
        tick=lambda n: notes.progress(f"{n} samples"),
        feedback=feedback,
        checkpoint=_checkpoint(chosen, observed, request, [*tensors, "counted", *counted]),
        device=recipe.calibration.device or best_device(),
    )
    if recipe.calibration.device == "cuda" and collected.device != "cuda":
        raise CalibrationError(
            "--calib-device cuda: this ONNX Runtime has no CUDA that works: install onnxruntime-gpu and a driver"
        )
    part.by_method = tuple(collected.ranges(method) for method in methods)
    part.ranges = part.by_method[0]
    if request.target.is_nvidia:
        golden = collect(observed, tensors, [("golden", g) for g in chosen.golden], chosen.origin)
        part.extremes = collected.ranges(MinMax()).merge(golden.ranges(MinMax()))
    warnings = [] if is_own else check.findings(chosen.golden) + unstable(collected, methods[0], planned)
    reading = chosen.samples.reading if isinstance(chosen.samples, Samples) else None
    if reading is not None:
        warnings = reading.findings() + warnings
    part.calibration = {
        **part.ranges.to_json(),
        **describe(collected, methods),
        "device": collected.device,
        "reading": None if reading is None else asdict(reading),
        "warnings": warnings,
    }
    notes.note(
        f"{part.name}: {', '.join(m.name for m in methods)} ranges of {len(tensors)} tensors over {collected.samples} "
        f"samples of {chosen.origin}{' on CUDA' if collected.device == 'cuda' else ''}, "
        f"{len(chosen.golden)} golden inputs"
    )
    notes.decline(*(f"{part.name}: {line}" for line in warnings[:_MOST_WARNINGS]))
    if len(warnings) > _MOST_WARNINGS:
        notes.decline(f"{part.name}: {len(warnings) - _MOST_WARNINGS} more in the calibration report")


def _checkpoint(chosen: _Chosen, observed: Graph, request: Request, tensors: list[str]) -> Checkpoint | None:
    """Where these statistics are kept: only what they depend on makes the name. Data from Python has none."""
    folder = cache_folder()
    if folder is None or chosen.path is None:
        return None
    recipe = request.recipe
    settings = recipe.model_dump_json(
        include={"audio", "calibration", "golden", "golden_inputs", "preprocess", "state", "shapes"}
    )
    processor = "" if chosen.processor is None else fingerprint(chosen.processor)
    name = key_of([__version__, observed.digest(), fingerprint(chosen.path), processor, settings, *tensors])
    return Checkpoint(CacheFile(folder / "calibration", f"{name}.npz"))


def _feedback(part: PartWork, request: Request) -> Feedback:
    """How the model's outputs become inputs, by the recipe or by their names."""
    inputs, outputs = part.graph.inputs, part.graph.outputs
    known = {spec.name for spec in inputs}, {spec.name for spec in outputs}
    asked = {i: o for i, o in request.recipe.state.items() if i in known[0]}
    unknown = [f"{i}: {o}" for i, o in asked.items() if o not in known[1]]
    if unknown:
        raise RecipeError(
            f"state: {part.name} has no such output: {unknown[0]}: it has {', '.join(s.name for s in outputs)}"
        )
    states = asked or find_states(inputs, outputs)
    caches = {name: output for name, output in states.items() if name.startswith("past_key_values")}
    if caches and {"input_ids"} <= known[0] and {"logits"} <= known[1]:
        return GeneratedText(caches, inputs, "logits", _GENERATED if _can_grow(caches, inputs) else 0)
    return RecurrentState(states, inputs) if states else NoFeedback()


def _can_grow(caches: Iterable[str], inputs: Sequence[TensorSpec]) -> bool:
    """Whether a decoder takes one token after the other: its cache and mask are of any length, and its tokens one."""
    shapes = {spec.name: spec.shape for spec in inputs}
    lengths = [shapes[name][-2] for name in caches if ".encoder." not in name and len(shapes[name]) > 2]
    lengths += [shapes["attention_mask"][-1]] if shapes.get("attention_mask") else []
    tokens = shapes["input_ids"][-1]
    return not any(isinstance(length, int) for length in lengths) and (not isinstance(tokens, int) or tokens == 1)


def _processor_bounds(part: PartWork, request: Request) -> dict[str, tuple[float, float]]:
    """Smallest and largest value that the recipe's preprocessing makes of a picture."""
    how = request.recipe.preprocess
    pictures = [spec for spec in part.graph.inputs if len(spec.shape) == 4]
    if how is None or len(pictures) != 1:
        return {}
    ends = [(pixel * how.scale - m) / s for pixel in (0, 255) for m, s in zip(*_per_channel(how), strict=True)]
    return {pictures[0].name: (min(ends), max(ends))}


def _per_channel(how: Preprocess) -> tuple[tuple[float, ...], tuple[float, ...]]:
    channels = max(len(how.mean), len(how.std))
    return tuple(v * channels if len(v) == 1 else v for v in (how.mean, how.std))  # type: ignore[return-value]


def _hold_out(
    stream: Samples, count: int, part: PartWork, feedback: Feedback, notes: StageNotes
) -> tuple[list[Sample], Samples | list[Located]]:
    """Every eighth of the first samples as golden inputs, the others for calibration.

    Neighbours in a recording or a sorted folder are alike, hence the distance. For a model with state
    the whole stretch is held out, and run in order, so that each golden input has the state of its place.
    """
    held = count * _DISTANCE
    is_stretch = isinstance(feedback, RecurrentState)

    def is_golden(index: int) -> bool:
        return index < held and index % _DISTANCE == 0

    first = list(islice(stream, held))
    if not first:
        raise CalibrationError(f"calibration: no samples in {stream.source}: give at least one")
    completed = _in_order(first, part, feedback) if is_stretch else [feedback.begin(*located) for located in first]
    golden = [sample for index, sample in enumerate(completed) if is_golden(index)]

    def others() -> Iterator[Located]:
        for index, located in enumerate(stream.read()):
            if index >= held or not (is_stretch or is_golden(index)):
                yield located

    if next(others(), None) is None:
        notes.decline("the samples are too few to hold some out: they are both calibrated and verified with: give more")
        return golden, first
    return golden, replace(stream, read=others)


def _in_order(located: list[Located], part: PartWork, feedback: Feedback) -> list[Sample]:
    """The samples with the state that the model has reached at each."""
    completed = []
    with Executor(part.graph) as executor:
        for where, sample in located:
            completed.append(feedback.begin(where, sample))
            feedback.follow(completed[-1], executor.run(completed[-1], feedback.outputs))
    feedback.restore({})
    return completed


def _data_for(part: PartWork, source: Source, request: Request) -> Any:
    """The calibration data of one part: a model of several parts takes a folder for each."""
    data = request.data
    if isinstance(data, str) and data.startswith("ready:"):
        data = _ready(data)
    if data is None or len(source.parts) == 1 or (isinstance(data, str) and data == SYNTHETIC):
        return data
    folder = Path(data) / part.name if isinstance(data, str | Path) else None
    if folder is not None and folder.is_dir():
        return folder
    if request.recipe.precision in _CALIBRATED:
        raise CalibrationError(
            f"the model has the parts {', '.join(p.name for p in source.parts)}: give --calib a folder that holds "
            f"a folder of .npz files for each; {part.name} has none"
        )
    return None


def _ready(name: str) -> Path:
    folder = data_folder("calibration")
    known = {p.stem: p for p in folder.iterdir() if p.suffix in _READY_FILES or (p.is_dir() and p.name not in _OTHER)}
    found = known.get(name.removeprefix("ready:"))
    if found is None:
        raise CalibrationError(f"no ready set {name!r}: there is {', '.join(f'ready:{k}' for k in sorted(known))}")
    return found
