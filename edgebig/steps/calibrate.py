"""Chooses golden inputs, and collects ranges where the precision needs them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgebig.calibrate import Samples, collect_ranges, open_samples
from edgebig.calibrate.samples import Located, Preparers
from edgebig.errors import CalibrationError, RecipeError
from edgebig.quantize import clamp_masks, observed_tensors
from edgebig.request import Request
from edgebig.resources import data_folder
from edgebig.source import Source
from edgebig.spec import TensorSpec
from edgebig.stages import StageNotes
from edgebig.steps.work import PartWork, Sample
from edgebig.tasks.vision import prepare
from edgebig.verify import Golden, made_inputs, outputs_of

_CALIBRATED = {"int8", "fp8"}
_DISTANCE = 8
_RANGED = {*_CALIBRATED, "fp16", "auto"}


def calibrate_part(part: PartWork, source: Source, request: Request, notes: StageNotes) -> None:
    """Sets ``golden`` and, where the precision needs them, ``ranges``."""
    data = _data_for(part, source, request)
    samples: Samples | list[Located]
    recipe = request.recipe
    if data is None:
        if recipe.precision in _CALIBRATED:
            raise CalibrationError(
                f"--precision {recipe.precision} needs samples of what {part.name} will see: give --calib "
                "(.npy, .npz, a folder of pictures, a text file, or ready:sentences)"
            )
        examples = list(part.source.examples) or made_inputs(part.graph, _best_shapes(part), recipe.golden)
        examples = [{s.name: e[s.name] for s in part.graph.inputs} for e in examples]
        samples, golden, origin = [(f"example {i}", e) for i, e in enumerate(examples)], examples, "made inputs"
    else:
        stream = open_samples(
            data, part.graph.inputs, recipe.calibration.samples + recipe.golden, _preparers(part, source, request)
        )
        golden, samples = _hold_out(stream, recipe.golden, notes)
        origin = stream.source
    answers = outputs_of(part.source.original, golden, "all", part.frozen)
    part.golden = Golden(golden, answers, origin)
    if recipe.precision not in _RANGED or (
        recipe.precision in {"fp16", "auto"} and not request.target.is_nvidia and data is None
    ):
        notes.note(f"{part.name}: {recipe.precision} needs no ranges; {len(golden)} golden inputs from {origin}")
        return
    observed = part.graph.clone()
    clamp_masks(observed)
    tensors = observed_tensors(observed)
    part.ranges = collect_ranges(observed, tensors, samples, origin, lambda n: notes.progress(f"{n} samples"))
    notes.note(
        f"{part.name}: {part.ranges.method} ranges of {len(tensors)} tensors over {part.ranges.samples} samples "
        f"of {origin}, {len(golden)} golden inputs"
    )
    if data is None:
        notes.decline(f"{part.name}: ranges come from {origin}, not from real data: give --calib to make sure of them")


def _hold_out(stream: Samples, count: int, notes: StageNotes) -> tuple[list[Sample], Samples | list[Located]]:
    """Every eighth of the first samples as golden inputs, the others for calibration.

    Neighbours in a recording or a sorted folder are alike, hence the distance.
    """
    held = count * _DISTANCE

    def is_golden(index: int) -> bool:
        return index < held and index % _DISTANCE == 0

    first = list(islice(stream, held))
    golden = [sample for index, (_, sample) in enumerate(first) if is_golden(index)]
    if not golden:
        raise CalibrationError(f"calibration: no samples in {stream.source}: give at least one")
    if len(first) == len(golden):
        notes.decline("only one sample: it is both calibrated and verified with: give more to tell the two apart")
        return golden, first
    rest = Samples(stream.source, lambda: (found for i, found in enumerate(stream.read()) if not is_golden(i)))
    return golden, rest


def _data_for(part: PartWork, source: Source, request: Request) -> Any:
    """The calibration data of one part: a model of several parts takes a folder for each."""
    data = request.data
    if isinstance(data, str) and data.startswith("ready:"):
        data = _ready(data)
    if data is None or len(source.parts) == 1:
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
    known = {p.stem: p for p in folder.glob("*.txt")}
    found = known.get(name.removeprefix("ready:"))
    if found is None:
        raise CalibrationError(f"no ready set {name!r}: there is {', '.join(f'ready:{k}' for k in sorted(known))}")
    return found


def _preparers(part: PartWork, source: Source, request: Request) -> Preparers:
    picture = source.picture
    if request.recipe.preprocess is not None:
        picture = _picture_by_recipe(part, request)
    text = source.text
    return Preparers(_fitted(picture, part), _fitted(text, part))


def _picture_by_recipe(part: PartWork, request: Request) -> Callable[[Path], Sample]:
    how = request.recipe.preprocess
    takes = [s for s in part.graph.inputs if len(s.shape) == 4]
    if how is None or len(takes) != 1:
        names = ", ".join(str(s) for s in part.graph.inputs)
        raise RecipeError(f"preprocess makes one picture tensor, the model takes {names}: give .npz samples instead")
    spec: TensorSpec = takes[0]
    return lambda path: {spec.name: prepare(path, how).astype(spec.dtype)}


def _fitted(make: Callable[[Any], Sample] | None, part: PartWork) -> Callable[[Any], Sample] | None:
    """A processor whose samples also hold the empty cache that a decoder starts from."""
    if make is None:
        return None
    caches = [s for s in part.graph.inputs if s.name.startswith("past_key_values")]

    def to_sample(item: Any) -> Sample:
        sample = make(item)
        for spec in caches:
            sizes = [d if isinstance(d, int) else 1 if "batch" in str(d) else 0 for d in spec.shape]
            sample.setdefault(spec.name, np.zeros(sizes, spec.dtype))
        return sample

    return to_sample


def _best_shapes(part: PartWork) -> dict[str, tuple[int, ...]]:
    return {name: profile.opt for name, profile in part.profiles.items()}
