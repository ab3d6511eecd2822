"""Which first layers stay in float on a CPU."""

from __future__ import annotations

from nets import net, node, normal, samples_for

from edgebig.graph import Graph
from edgebig.graph.work import macs, observed_shapes
from edgebig.quantize.stem import SHARE, stem_layers


def network(channels: int = 3, kernel: int = 3, width: int = 64, *, pool: bool = True) -> Graph:
    """x 1xCx32x32 -> stem of 8 channels, Relu, MaxPool, squeeze to 8, two convolutions of ``width`` channels."""
    nodes = [node("Conv", "x w0", "stem"), node("Relu", "stem", "r")]
    nodes += [node("MaxPool", "r", "p", kernel_shape=[2, 2], strides=[2, 2])] if pool else []
    nodes += [node("Conv", f"{'p' if pool else 'r'} w1", "squeeze"), node("Conv", "squeeze w2", "a")]
    nodes += [node("Conv", "a w3", "b"), node("Relu", "b", "y")]
    weights = {"w0": normal(8, channels, kernel, kernel), "w1": normal(8, 8, 1, 1)}
    weights |= {"w2": normal(width, 8, 3, 3), "w3": normal(width, width, 3, 3)}
    return net(nodes, {"x": [1, channels, 32, 32]}, ["y"], weights)


def stem_of(graph: Graph) -> list[str]:
    return list(stem_layers(graph, observed_shapes(graph, samples_for(graph, 1)[0])))


def test_the_first_convolution_and_what_reads_its_pooled_result() -> None:
    assert stem_of(network()) == ["stem", "squeeze"]
    reasons = stem_layers(network(), observed_shapes(network(), samples_for(network(), 1)[0]))
    assert reasons == {
        "stem": "a convolution of few channels: INT8 would make it no faster",
        "squeeze": "it reads what stem gives pooled: in INT8 the pooling is slower",
    }


def test_without_pooling_the_next_layer_is_quantized() -> None:
    assert stem_of(network(pool=False)) == ["stem"]


def test_a_long_product_is_no_stem() -> None:
    assert stem_of(network(kernel=7)) == []
    assert stem_of(network(channels=16)) == []


def test_what_is_much_of_the_arithmetic_is_quantized() -> None:
    # between layers of 8 channels the stem is nearly half of the work
    graph = network(width=8)
    shapes = observed_shapes(graph, samples_for(graph, 1)[0])
    work = macs(graph, shapes)
    assert work["stem"] > SHARE * sum(work.values())
    assert stem_layers(graph, shapes) == {}
