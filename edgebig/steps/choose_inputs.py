"""Chooses what a part is verified and calibrated with: golden inputs, held out of the samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from edgebig.calibrate import Feedback, GeneratedText, NoFeedback, RecurrentState, Samples, find_states, open_samples
from edgebig.calibrate.data.samples import Located
from edgebig.errors import CalibrationError, RecipeError
from edgebig.graph import Executor
from edgebig.request import Request
from edgebig.resources import data_folder
from edgebig.source import Source
from edgebig.spec import TensorSpec
from edgebig.stages import StageNotes
from edgebig.steps.examples import best_shapes, fit_examples
from edgebig.steps.preparers import preparers_for
from edgebig.steps.synthetic import SYNTHETIC, synthetic_for
from edgebig.steps.work import PartWork, Sample
from edgebig.verify import made_inputs

CALIBRATED = {"int8", "fp8"}
"""Precisions that need samples."""

_DISTANCE = 8
_GENERATED = 8
"""Tokens that a decoder writes after each calibration text."""

_TRIAL = 16
"""Held-out inputs that a search measures plans with."""

_OTHER = {"sources", "__pycache__"}
_READY_FILES = {".npz", ".txt"}


@dataclass(frozen=True)
class Chosen:
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


def data_for(part: PartWork, source: Source, request: Request) -> Any:
    """The calibration data of one part: a model of several parts takes a folder for each."""
    data = request.data
    if isinstance(data, str) and data.startswith("ready:"):
        data = _ready(data)
    if data is None or len(source.parts) == 1 or (isinstance(data, str) and data == SYNTHETIC):
        return data
    folder = Path(data) / part.name if isinstance(data, str | Path) else None
    if folder is not None and folder.is_dir():
        return folder
    if request.recipe.precision in CALIBRATED:
        raise CalibrationError(
            f"the model has the parts {', '.join(p.name for p in source.parts)}: give --calib a folder that holds "
            f"a folder of .npz files for each; {part.name} has none"
        )
    return None


def feedback_of(part: PartWork, request: Request) -> Feedback:
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


def choose_inputs(
    part: PartWork, source: Source, request: Request, data: Any, feedback: Feedback, notes: StageNotes
) -> Chosen:
    """Golden inputs and samples of the data; made ones where that is ``None``.

    Raises:
        CalibrationError: there are no samples, or they do not fit.
    """
    return _made(part, request) if data is None else _real(part, source, request, data, feedback, notes)


def _made(part: PartWork, request: Request) -> Chosen:
    examples = list(part.source.examples)
    if not examples:
        sets = part.profile_sets or ({},)
        each = -(-request.recipe.golden // len(sets))
        examples = [made for one in sets for made in made_inputs(part.graph, best_shapes(one), each)]
    examples = [{s.name: e[s.name] for s in part.graph.inputs} for e in examples]
    # an engine takes its own shapes alone, ONNX Runtime any
    is_host = request.target.engine == "host"
    examples = fit_examples(examples, part.profile_sets, part.graph.inputs, any_size=is_host)
    return Chosen(examples, [(f"example {i}", e) for i, e in enumerate(examples)], "made inputs")


def _real(part: PartWork, source: Source, request: Request, data: Any, feedback: Feedback, notes: StageNotes) -> Chosen:
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
    return Chosen(golden, samples, stream.source, trial, path, source.processor)


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


def _ready(name: str) -> Path:
    folder = data_folder("calibration")
    known = {p.stem: p for p in folder.iterdir() if p.suffix in _READY_FILES or (p.is_dir() and p.name not in _OTHER)}
    found = known.get(name.removeprefix("ready:"))
    if found is None:
        raise CalibrationError(f"no ready set {name!r}: there is {', '.join(f'ready:{k}' for k in sorted(known))}")
    return found
