"""The gate: each stage against the one before and against the original, on the golden inputs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from edgebig.errors import AccuracyError
from edgebig.graph import Graph
from edgebig.graph.execute import Level
from edgebig.graph.passes import is_quantized
from edgebig.request import Request
from edgebig.similarity import Similarity
from edgebig.stages import StageNotes
from edgebig.steps.lower import reference_level
from edgebig.steps.work import PartWork
from edgebig.verify import (
    Layer,
    check_faithful,
    compare_layers,
    expose_quantized,
    first_jump,
    outputs_of,
    similarity_of,
)

_NO_LIMIT = 1e30
_STAGES = {
    "graph": "simplified against original",
    "quantize": "{precision} against simplified",
    "build": "built against {precision}",
}


@dataclass
class Comparisons:
    """What the comparisons of one part found.

    Attributes:
        stages: for each stage that could be compared with the one before, the similarity of each output.
        original: of the result to the original; empty where the result does not run here.
        layers: of the lowered graph against the simplified one; empty until they are needed.
    """

    stages: dict[str, dict[str, Similarity]] = field(default_factory=dict)
    original: dict[str, Similarity] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def figures(self) -> dict[str, dict[str, float]]:
        """The worst of each stage, and of the whole, as plain data."""
        found = {**self.stages, "all": self.original}
        return {name: Similarity.worst(s.values()).to_json() for name, s in found.items() if s}


class Comparing:
    """:func:`compare_stages` on another thread: a builder of engines takes one core."""

    def __init__(self, part: PartWork, request: Request) -> None:
        self._notes = StageNotes("verify", lambda event: None)
        pool = ThreadPoolExecutor(1, thread_name_prefix="edgebig-compare")
        self._running = pool.submit(compare_stages, part, request, None, self._notes)
        pool.shutdown(wait=False)

    def check(self) -> None:
        """Raises what the comparisons have raised by now: there is no need to build any further.

        Raises:
            AccuracyError: as :func:`compare_stages`.
        """
        if self._running.done():
            self._running.result()

    def wait(self) -> None:
        """Waits for their end, whatever it is."""
        wait([self._running])

    def result(self, notes: StageNotes) -> Comparisons:
        """What they found, which is said in the stage that it belongs to; raises what they raise."""
        found = self._running.result()
        notes.note(*self._notes.notes)
        notes.decline(*self._notes.declined)
        return found


def compare_stages(part: PartWork, request: Request, built: Path | None, notes: StageNotes) -> Comparisons:
    """Runs what can be run here, and keeps the figures as notes.

    Args:
        part: with its golden inputs and lowered graph.
        request: how far an export may be from its original, and a quantized model from the simplified one.
        built: the graph that was built for this machine, if one was.
        notes: takes a line for each comparison.

    Raises:
        AccuracyError: beyond ``tolerance`` or ``max_drop``; the message names the stage and the first layer.
    """
    golden, result = part.examined(), Comparisons()
    original = list(golden.outputs)  # first: what the original does not take is not blamed on a stage
    faithful = request.recipe.tolerance if part.own_ranges is None else _NO_LIMIT
    simplified = original if part.is_unchanged else outputs_of(part.graph, golden.inputs, "basic")
    result.stages["graph"] = similarity_of(original, simplified)
    told = check_faithful(result.stages["graph"], faithful, f"{part.name}: {_STAGES['graph']}")
    notes.note(f"{part.name}: the graph is the original: nothing was changed in it" if part.is_unchanged else told)
    if part.own_ranges is not None:
        worst = Similarity.worst(result.stages["graph"].values())
        notes.decline(
            f"{part.name}: the original rounds where the graph computes in float, hence a cosine of {worst.cosine:.4f} "
            "between them, which says nothing of which is better: compare with the model as it was before"
        )
    if part.precision == "bf16":
        notes.decline(f"{part.name}: not compared: ONNX Runtime has no BF16 kernels on a CPU")
        return result
    last = simplified
    if part.precision != "fp32":
        last = outputs_of(part.result(), golden.inputs, _plain_level(part, request))
        result.stages["quantize"] = similarity_of(simplified, last)
    if built is not None:
        result.stages["build"] = similarity_of(last, answers := outputs_of(built, golden.inputs, "all"))
        last = answers
    for stage in [s for s in ("quantize", "build") if s in result.stages]:
        notes.note(_line(part, stage, result.stages[stage]))
    result.original = similarity_of(original, last)
    _refuse_beyond(part, request, result, built)
    # operators that ONNX Runtime fuses round a quantized graph's integers elsewhere
    rounds = part.precision != "fp32" or is_quantized(part.result())
    limit = _NO_LIMIT if rounds else faithful
    notes.note(check_faithful(result.original, limit, f"{part.name}: {part.precision} against original"))
    return result


def layers_of(part: PartWork, request: Request) -> list[Layer]:
    """The lowered graph's layers against those of the float graph that it was made from."""
    return compare_layers(exact_graph(part), part.result(), part.examined().inputs, _plain_level(part, request))


def exact_graph(part: PartWork) -> Graph:
    """The float graph with the same values inside: repairs scale tensors and their readers' weights."""
    return part.exact if part.exact is not None else part.graph


def _plain_level(part: PartWork, request: Request) -> Level:
    """At which the lowered graph computes what it says: fused integer operators belong to what is built."""
    return "off" if part.quantized else reference_level(part, request)


def _refuse_beyond(part: PartWork, request: Request, found: Comparisons, built: Path | None) -> None:
    """Raises where the result lost more cosine than was allowed, or holds NaN or infinity."""
    recipe = request.recipe
    # with labels the limit is in the metric's unit
    allowed = recipe.max_drop if recipe.evaluation.data is None else None
    name, worst = min(found.original.items(), key=lambda item: item[1].cosine)
    is_broken = any(s.max_abs == float("inf") for s in found.original.values())
    is_beyond = allowed is not None and part.precision != "fp32" and not 1 - worst.cosine <= allowed
    evaluated = part.evaluated
    is_worse = evaluated is not None and recipe.max_drop is not None and evaluated.drop > recipe.max_drop
    if not is_broken and not is_beyond and not is_worse:
        return
    stage = max(found.stages, key=lambda s: 1 - Similarity.worst(found.stages[s].values()).cosine)
    lost = (
        f"the output {name!r} holds NaN or infinity"
        if is_broken
        else f"{evaluated.text}: it loses {evaluated.drop:.4g}, allowed are {recipe.max_drop:.4g}"
        if evaluated is not None and is_worse
        else f"the output {name!r} has a cosine of {worst.cosine:.5f} to the original's, at least "
        f"{1 - (allowed or 0):.5f} was asked"
    )
    where = _where(part, request, stage, built)
    raise AccuracyError(f"{part.name} in {part.precision}: {lost}; most is lost in the stage {stage!r}{where}")


def _where(part: PartWork, request: Request, stage: str, built: Path | None) -> str:
    """The first layer at which the error jumps, and what to do."""
    if stage == "graph":
        return ": the simplified graph differs from the original: please report it with the model"
    if stage == "build" and built is not None:
        exact = exact_graph(part)
        names = [str(v.name) for node in exact.model.graph for v in node.outputs]
        graph = expose_quantized(Graph.load(built), names)
        layers = compare_layers(exact, graph, part.examined().inputs, "all")
    else:
        layers = layers_of(part, request)
    jump = first_jump(layers)
    if jump is None:
        return ": use a more precise format, or other calibration data"
    own = "makes NaN or infinity" if jump.is_broken else f"own SQNR {jump.own.sqnr_db:.1f} dB"
    return (
        f"; the error jumps first at {jump.name} ({jump.op}, {jump.format}, {own}): keep it in float with "
        f"--keep-float {jump.name}, or compile with --keep-original and no limit and see 'edgebig debug'"
    )


def _line(part: PartWork, stage: str, found: dict[str, Similarity]) -> str:
    worst = Similarity.worst(found.values())
    what = _STAGES[stage].format(precision=part.precision)
    return f"{part.name}: {what}: cosine {worst.cosine:.6f}, SQNR {worst.sqnr_db:.1f} dB"
