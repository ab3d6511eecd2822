"""check_graph: an invalid graph does not get past a pass."""

from __future__ import annotations

import onnx_ir as ir
import pytest
import tiny
from textnets import as_graph, net

from edgebig.errors import GraphError
from edgebig.graph.check import check_graph


@pytest.mark.parametrize("model", [tiny.mlp(), tiny.two_inputs(), tiny.add_one()])
def test_valid_graphs_pass_and_keep_their_weights(model: object) -> None:
    graph = as_graph(model)  # type: ignore[arg-type]
    size = graph.weight_bytes
    check_graph(graph, "nothing")
    assert graph.weight_bytes == size


@pytest.mark.parametrize(
    "body",
    [
        "y = NoSuchOperator(x)",
        "y = Relu(gone)",
        "y = Relu<slope = 3.0>(x)",
        "y = Add(x)",
        "z = Relu(x)",
    ],
)
def test_an_invalid_graph_is_refused_with_the_pass_that_made_it(body: str) -> None:
    graph = as_graph(net("float[2] x", "float[2] y", body, check=False))
    with pytest.raises(GraphError, match="the graph tiny is invalid after my pass: ") as caught:
        check_graph(graph, "my pass")
    assert len(str(caught.value)) <= 600


def test_a_graph_in_the_wrong_order_is_refused() -> None:
    graph = as_graph(net("float[2] x", "float[2] y", "h = Relu(x) y = Neg(h)"))
    graph.model.graph.insert_after(graph.model.graph[1], graph.model.graph[0])
    with pytest.raises(GraphError, match="invalid after reordering"):
        check_graph(graph, "reordering")


def test_a_node_that_writes_to_an_input_is_refused() -> None:
    graph = as_graph(net("float[2] x", "float[2] y", "h = Relu(x) y = Neg(h)"))
    main = graph.model.graph
    main.inputs.append(ir.Value(name="extra", shape=ir.Shape([2]), type=ir.TensorType(ir.DataType.FLOAT)))
    check_graph(graph, "adding an input")
    main[0].outputs[0].name = "extra"
    with pytest.raises(GraphError, match="invalid after a rename"):
        check_graph(graph, "a rename")
