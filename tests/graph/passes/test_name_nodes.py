"""NameNodes: plans and messages go by names, so every name is there and unique."""

from __future__ import annotations

from textnets import as_graph, assert_same, net, normal

from edgebig.graph.passes import NameNodes, PassReport, run_passes


def test_nodes_without_names_get_unique_ones_and_the_interface_keeps_its_own() -> None:
    model = net("float[2] x", "float[2] y", "a = Relu(x) b = Neg(a) y = Add(a, b)")
    graph = as_graph(model)
    assert [n.name for n in graph.nodes()] == ["", "", ""]
    (report,) = run_passes(graph, [NameNodes()])
    assert report.changed == ("gave names to nodes without one",)
    names = [n.name for n in graph.nodes()]
    assert all(names) and len(set(names)) == 3
    assert ([s.name for s in graph.inputs], [s.name for s in graph.outputs]) == (["x"], ["y"])
    assert_same(graph, model, {"x": normal(2)}, 0)
    assert NameNodes()(graph) == PassReport("name nodes")


def test_names_that_are_shared_are_told_apart_and_others_kept() -> None:
    model = net("float[2] x", "float[2] y", "a = Relu(x) b = Neg(a) y = Add(a, b)")
    for node, name in zip(model.graph.node, ["layer", "layer", "sum"], strict=True):
        node.name = name
    graph = as_graph(model)
    NameNodes()(graph)
    names = [n.name for n in graph.nodes()]
    assert names[0] == "layer" and names[2] == "sum" and names[1] not in {"layer", "sum", ""}
