"""Layers that are decided on together."""

from __future__ import annotations

import pytest
from nets import attention_net, conv_net, net, node, normal

from edgebig.quantize.search import Group, group_layers


def chain(count: int) -> tuple[object, list[str]]:
    nodes = [node("MatMul", f"{'x' if i == 0 else f'm{i - 1}'} w", f"m{i}") for i in range(count)]
    graph = net(nodes, {"x": [1, 4]}, [f"m{count - 1}"], {"w": normal(4, 4)})
    return graph, [f"m{i}" for i in range(count)]


def test_readers_of_one_tensor_are_one_group_in_the_graphs_order() -> None:
    layers = ["projected", "v", "q", "k"]
    assert group_layers(attention_net(), layers) == [Group("q", ("q", "k", "v")), Group("projected", ("projected",))]
    assert [g.name for g in group_layers(conv_net(), ["y", "conv2", "conv1"])] == ["conv1", "conv2", "y"]
    assert group_layers(attention_net(), ["v"]) == [Group("v", ("v",))]
    assert group_layers(attention_net(), []) == []


@pytest.mark.parametrize(
    ("count", "most", "sizes"), [(10, 10, [1] * 10), (10, 9, [2] * 5), (10, 4, [3, 3, 3, 1]), (3, 1, [3])]
)
def test_neighbours_are_joined_where_there_are_too_many(count: int, most: int, sizes: list[int]) -> None:
    graph, layers = chain(count)
    groups = group_layers(graph, layers, most)  # type: ignore[arg-type]
    assert [len(g.layers) for g in groups] == sizes and len(groups) <= most
    assert [name for g in groups for name in g.layers] == layers
    assert all(g.name == g.layers[0] for g in groups)
