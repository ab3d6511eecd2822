"""What a group of layers loses when it alone is quantized; only what comes after its input is run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from edgebig.errors import GraphError
from edgebig.graph import Executor, Graph
from edgebig.graph.execute import Level
from edgebig.graph.work import Shapes
from edgebig.quantize import Plan, insert_qdq
from edgebig.steps.work import Sample
from edgebig.steps.yardstick import Yardstick
from edgebig.verify.subgraph import cut

Choice = Mapping[str, str]

MEMORY = 128 << 20
"""Bytes of tensors that are kept at once."""

_BYTES = 4


class Alone:
    """Measures groups by themselves.

    The float graph is run once for each input, and the tensors that lie across the place where a group begins are
    kept; the group's trial starts from them. Tensors of as many groups are kept at once as fit into ``memory``, of one
    at least, so that the graph is run a few times more where not all do. The losses are those of the whole graph.

    Attributes:
        prefixes: how often the float graph was run over the inputs.
        wholes: trials that took the whole graph, since their plan reaches before the group.
    """

    def __init__(
        self,
        graph: Graph,
        groups: Mapping[str, Sequence[str]],
        plan_of: Callable[[Choice], Plan],
        yardstick: Yardstick,
        level: Level,
        shapes: Shapes,
        memory: int = MEMORY,
    ) -> None:
        """Keeps what it needs; nothing is run yet.

        Args:
            graph: float32, as every choice starts from it.
            groups: names of the layers of each group, groups in the graph's order.
            plan_of: the plan of a choice of formats by group.
            yardstick: what measures.
            level: ONNX Runtime's optimization level.
            shapes: of the tensors, for one input: how much memory they take.
            memory: in bytes.
        """
        self._plan_of, self._yardstick, self._level = plan_of, yardstick, level
        self._nothing = plan_of({})
        self._base = graph.clone()
        # embeddings are quantized whatever the choice is
        insert_qdq(self._base, self._nothing, check=False)
        self._whole = graph
        nodes = list(self._base.model.graph)
        order = {str(node.name): index for index, node in enumerate(nodes)}
        self._begins = {name: min(order[layer] for layer in layers) for name, layers in groups.items()}
        self._outputs = [str(value.name) for value in self._base.model.graph.outputs]
        self._floats = [
            (index, value)
            for index, node in enumerate(nodes)
            for value in node.outputs
            if value.dtype == ir.DataType.FLOAT
        ]
        self._last_use = _last_uses(nodes, self._floats)
        self._shapes, self._memory = shapes, memory
        self._kept: list[Sample] = []
        self.prefixes = self.wholes = 0

    def loss(self, choice: Choice) -> float:
        """1 - cosine of the worst output, averaged over the inputs; ``choice`` names one group."""
        (group,) = choice
        added = _difference(self._plan_of(choice), self._nothing)
        before = {str(value.name) for index, value in self._floats if index < self._begins[group]}
        late = [name for name in self._outputs if name not in before]
        piece = cut(self._base, before, late).graph if added is not None and late else None
        if piece is None or added is None or not _fits(piece, added):
            self.wholes += 1
            quantized = self._whole.clone()
            insert_qdq(quantized, self._plan_of(choice), check=False)
            return self._yardstick.mean_distance(quantized, self._level)
        insert_qdq(piece, added, check=False)
        early = [name for name in self._outputs if name in before]
        needed = [spec.name for spec in piece.inputs if spec.name in before]
        try:
            given = self._tensors(group, [*needed, *early])
            with Executor(piece, self._level) as executor:
                found = [
                    {**{n: values[n] for n in early}, **executor.run({**sample, **values})}
                    for sample, values in zip(self._yardstick.inputs, given, strict=True)
                ]
        except GraphError:
            return math.inf
        return self._yardstick.mean_distance_of(found)

    def _tensors(self, group: str, needed: Sequence[str]) -> list[Sample]:
        """The values of ``needed`` on each input; those of the groups that come next are found on the way."""
        if not needed:
            return [{} for _ in self._yardstick.inputs]
        if not self._kept or any(name not in self._kept[0] for name in needed):
            names = dict.fromkeys(needed)
            for begin in self._begins.values():
                if begin < self._begins[group]:
                    continue
                more = names | dict.fromkeys(self._across(begin))
                if self._size(more) > self._memory:
                    break
                names = more
            self._kept = []
            self.prefixes += 1
            with Executor(cut(self._base, (), list(names)).graph, self._level) as executor:
                self._kept = [executor.run(sample) for sample in self._yardstick.inputs]
        return self._kept

    def _across(self, begin: int) -> list[str]:
        """Float tensors that are written before a place and read at it or behind it."""
        return [str(v.name) for index, v in self._floats if index < begin <= self._last_use[str(v.name)]]

    def _size(self, names: Mapping[str, None]) -> int:
        elements = sum(math.prod(self._shapes.get(name, ())) for name in names)
        return elements * _BYTES * len(self._yardstick.inputs)


def added_by(plan: Plan, less: Plan) -> Plan:
    """What is rounded with ``plan`` and not with ``less``, as a plan of its own, without biases, which 32 bits hold."""
    return Plan(
        activations={n: c for n, c in plan.activations.items() if n not in less.activations},
        weights=[w for w in plan.weights if w not in less.weights],
    )


def _last_uses(nodes: Sequence[ir.Node], floats: Sequence[tuple[int, ir.Value]]) -> dict[str, int]:
    """The place of the last node that reads each tensor; behind all nodes for an output of the graph."""
    order = {id(node): index for index, node in enumerate(nodes)}
    found = {}
    for index, value in floats:
        # a node within a branch has no place of its own: until the end is always enough
        places = [order.get(id(user), len(nodes)) for user, _ in value.uses()]
        found[str(value.name)] = len(nodes) if value.is_graph_output() else max([index, *places])
    return found


def _difference(plan: Plan, base: Plan) -> Plan | None:
    """What ``plan`` adds to ``base``; ``None`` where it does something else than to add."""
    changed = any(plan.activations.get(name) != choice for name, choice in base.activations.items())
    lost = any(w not in plan.weights for w in base.weights) or set(base.embeddings) - set(plan.embeddings)
    if changed or lost or set(base.integer_biases) - set(plan.integer_biases):
        return None
    return replace(
        plan,
        activations={n: c for n, c in plan.activations.items() if n not in base.activations},
        weights=[w for w in plan.weights if w not in base.weights],
        integer_biases=[n for n in plan.integer_biases if n not in base.integer_biases],
        embeddings=[n for n in plan.embeddings if n not in base.embeddings],
    )


def _fits(piece: Graph, plan: Plan) -> bool:
    """Whether all that the plan names is in the piece."""
    main = piece.model.graph
    nodes = {str(node.name) for node in main}
    tensors = {str(v.name) for v in (*main.inputs, *(v for node in main for v in node.outputs))}
    readers = {name for choice in plan.activations.values() for name in choice.readers or ()}
    named = {w.node for w in plan.weights} | {*plan.integer_biases, *plan.embeddings} | readers
    return named <= nodes and set(plan.activations) <= tensors
