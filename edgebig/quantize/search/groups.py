"""Groups of layers that the search decides on together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from edgebig.graph import Graph

_MOST = 48
"""Groups beyond which neighbours are joined: each costs a measurement."""


@dataclass(frozen=True)
class Group:
    """Layers that are quantized together or not at all.

    Attributes:
        name: the first layer's.
        layers: names of the nodes.
    """

    name: str
    layers: tuple[str, ...]


def group_layers(graph: Graph, layers: Iterable[str], most: int = _MOST) -> list[Group]:
    """Layers that read the same tensor make one group, since its Q/DQ pair serves all of them.

    Where more than ``most`` groups come of it, neighbours in the graph's order are joined.
    """
    wanted = set(layers)
    by_input: dict[str, list[str]] = {}
    for node in graph.model.graph:
        if str(node.name) in wanted:
            value = node.inputs[0]
            key = str(value.name) if value is not None else str(node.name)
            by_input.setdefault(key, []).append(str(node.name))
    found = list(by_input.values())
    together = -(-len(found) // most) if found else 1
    joined = [list(chain.from_iterable(found[i : i + together])) for i in range(0, len(found), together)]
    return [Group(names[0], tuple(names)) for names in joined]
