"""PartWork: one graph of the model on its way through the pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgebig.build import ProfileSet
from edgebig.bundle import Engine
from edgebig.calibrate import Range, Ranges
from edgebig.graph import Graph
from edgebig.quantize import PlanFile
from edgebig.source import SourcePart
from edgebig.verify import Golden

if TYPE_CHECKING:
    from edgebig.steps.gate import Comparing

Sample = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class Evaluated:
    """The metric of the original and of a lowered graph.

    Attributes:
        metric: its name.
        reference, found: the scores.
        drop: how much worse the second is, in the metric's unit.
        text: for people.
    """

    metric: str
    reference: float
    found: float
    drop: float
    text: str


@dataclass
class PartWork:
    """What the stages made of one graph so far.

    Attributes:
        source: the graph as it came.
        graph: simplified, in float32.
        profiles: shapes of the inputs that stay dynamic; those that samples are made for.
        more_profiles: further sets of them, which an engine is built for too.
        frozen: inputs that became constants, for runs of the original.
        stays_as_it_came: whether the graph's own Q/DQ pairs, and all else in it, are left where they are.
        is_unchanged: whether no pass changed anything in it.
        own_ranges: of tensors that the original rounds, where it came quantized and ``graph`` computes in float;
            ``None`` for all others.
        golden: held-out inputs with the original's outputs.
        trial: more of the same, that a search measures plans with; ``golden`` where there is no search.
        samples: the calibration samples, whole inputs of ``graph``, read anew in each iteration.
        repaired: ``graph`` with what quantization asks of it done to its weights; its outputs are the same.
        repairs: a line for each thing that was done.
        plan: what each layer computes with, once it is quantized.
        ranges: of the activations, by the method that was asked for.
        by_method: the same by every method that was asked for.
        extremes: of the activations, over the golden inputs too: what FP16 must hold.
        calibration: the report on them, as plain data.
        exact: the float graph that ``lowered`` was quantized from, with the same values inside.
        lowered: the graph in the precision of the target.
        precision: what ``auto`` came to, or what was asked.
        evaluated: the scores on labelled data of ``graph`` and ``lowered``, where there is some.
        quantized: whether ``lowered`` holds Q/DQ pairs.
        engines: what was built.
        comparing: the comparisons, where they are made while the engine is built.
        kept_original: the bundle's file of ``graph``, where it was asked for.
    """

    source: SourcePart
    graph: Graph
    profiles: ProfileSet
    more_profiles: tuple[ProfileSet, ...] = ()
    frozen: Sample = field(default_factory=dict)
    stays_as_it_came: bool = False
    is_unchanged: bool = False
    own_ranges: dict[str, Range] | None = None
    golden: Golden | None = None
    trial: Golden | None = None
    samples: Iterable[Sample] | None = None
    repaired: Graph | None = None
    repairs: list[str] = field(default_factory=list)
    plan: PlanFile | None = None
    ranges: Ranges | None = None
    by_method: tuple[Ranges, ...] = ()
    extremes: Ranges | None = None
    calibration: dict[str, Any] | None = None
    exact: Graph | None = None
    lowered: Graph | None = None
    precision: str = "fp32"
    evaluated: Evaluated | None = None
    quantized: bool = False
    engines: tuple[Engine, ...] = ()
    comparing: Comparing | None = None
    kept_original: str | None = None

    @property
    def name(self) -> str:
        """The part's name."""
        return self.source.name

    @property
    def graph_file(self) -> str:
        """The bundle's file of the portable graph."""
        return f"graphs/{self.name}.onnx"

    @property
    def profile_sets(self) -> tuple[ProfileSet, ...]:
        """All sets of shapes; none where every shape is fixed."""
        return tuple(one for one in (self.profiles, *self.more_profiles) if one)

    def examined(self) -> Golden:
        """The golden inputs, which the calibrate stage has chosen."""
        if self.golden is None:
            raise RuntimeError("the calibrate stage comes first")
        return self.golden

    def examples(self) -> Golden:
        """The inputs that a search measures plans with."""
        return self.trial if self.trial is not None else self.examined()

    def result(self) -> Graph:
        """The lowered graph, which the quantize stage has made."""
        if self.lowered is None:
            raise RuntimeError("the quantize stage comes first")
        return self.lowered
