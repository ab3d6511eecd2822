"""Takes golden inputs, and collects ranges where the precision needs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from edgebig import __version__
from edgebig.cache import CacheFile, cache_folder, fingerprint, key_of
from edgebig.calibrate import (
    METHODS,
    Checkpoint,
    Feedback,
    MinMax,
    NoFeedback,
    Samples,
    SetCheck,
    collect,
    describe,
    unstable,
)
from edgebig.calibrate.data.samples import Located
from edgebig.errors import CalibrationError, GraphError, UsageError
from edgebig.graph import Graph
from edgebig.graph.execute import Level, best_device
from edgebig.preprocess import Preprocess
from edgebig.quantize import clamp_masks, observed_tensors, planned_tensors
from edgebig.request import Request
from edgebig.source import Source
from edgebig.stages import StageNotes
from edgebig.steps.choose_inputs import CALIBRATED, Chosen, choose_inputs, data_for, feedback_of
from edgebig.steps.plans import plan_suffices
from edgebig.steps.repair import repair_part
from edgebig.steps.work import PartWork, Sample
from edgebig.verify import Answers, Golden, outputs_of

_MOST_WARNINGS = 4
_RANGED = {*CALIBRATED, "fp16", "auto"}


def calibrate_part(part: PartWork, source: Source, request: Request, notes: StageNotes) -> None:
    """Sets ``golden`` and, where the precision needs them, ``ranges`` and ``calibration``."""
    recipe = request.recipe
    data = data_for(part, source, request)
    needs_data = data is None and recipe.precision in CALIBRATED and not part.own_ranges
    if needs_data and not plan_suffices(part, request):
        raise CalibrationError(
            f"--precision {recipe.precision} needs samples of what {part.name} will see: give --calib "
            "(.npy, .npz, a folder of pictures, a text file, ready:sentences, or synthetic where there is nothing)"
        )
    feedback = feedback_of(part, request)
    if data is None and not part.source.examples:
        # made inputs hold a cache, and may be as long as the model takes
        feedback = NoFeedback()
    chosen = choose_inputs(part, source, request, data, feedback, notes)
    answers = Answers(lambda: _answers(part, chosen, is_made=data is None))
    part.golden = Golden(chosen.golden, answers, chosen.origin)
    if len(chosen.trial) > len(chosen.golden):
        part.trial = Golden(chosen.trial, outputs_of(part.graph, chosen.trial, "all"), chosen.origin)
    part.samples = _Whole(chosen.samples, feedback) if data is not None else None
    is_ranged = recipe.precision in _RANGED and (request.target.is_nvidia or data is not None)
    if is_ranged:
        if data is not None and recipe.precision in {*CALIBRATED, "auto"}:
            repair_part(part, request, "int8" if recipe.precision == "auto" else recipe.precision, notes)
        is_own = data is None and bool(part.own_ranges) and recipe.precision in CALIBRATED
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
class _Whole:
    """The samples with what a model with state would be given beside them."""

    samples: Iterable[Located]
    feedback: Feedback

    def __iter__(self) -> Iterator[Sample]:
        for where, sample in self.samples:
            yield self.feedback.begin(where, sample)
        self.feedback.restore({})


def _answers(part: PartWork, chosen: Chosen, *, is_made: bool) -> list[Sample]:
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


def _collect(
    part: PartWork, request: Request, chosen: Chosen, feedback: Feedback, notes: StageNotes, *, is_own: bool
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


def _checkpoint(chosen: Chosen, observed: Graph, request: Request, tensors: list[str]) -> Checkpoint | None:
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
