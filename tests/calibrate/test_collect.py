"""Streamed ranges against NumPy's extremes of all activations kept in memory."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from nets import Sample, attention_net, conv_net, net, node, ranges_of, residual_net, samples_for

from edgebig.calibrate import Range, collect_ranges
from edgebig.errors import CalibrationError
from edgebig.graph import Graph
from edgebig.quantize import observed_tensors

NETS = {"conv": conv_net, "residual": residual_net, "attention": attention_net}


def all_activations(graph: Graph, samples: list[Sample]) -> dict[str, list[np.ndarray]]:
    """Every float activation on every sample, from ONNX Runtime with all of them as outputs."""
    proto = ir.to_proto(graph.model)
    names = observed_tensors(graph)
    computed = [name for name in names if name not in {i.name for i in proto.graph.input}]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in computed)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for sample in samples:
        for name, value in {**sample, **dict(zip(computed, session.run(computed, sample), strict=True))}.items():
            found[name].append(value)
    return found


@pytest.mark.parametrize("name", NETS)
def test_ranges_are_those_of_all_values(name: str) -> None:
    graph = NETS[name]()
    samples = samples_for(graph, 7, batch=2)
    ranges = ranges_of(graph, samples)
    expected = all_activations(graph, samples)
    assert set(ranges) == set(expected) and ranges.samples == 7 and ranges.method == "min-max"
    for tensor, values in expected.items():
        found = ranges.by_tensor[tensor]
        np.testing.assert_allclose(
            [found.min, found.max], [min(map(np.min, values)), max(map(np.max, values))], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", NETS)
def test_the_split_and_the_order_do_not_matter(name: str) -> None:
    graph = NETS[name]()
    (together,) = samples_for(graph, 1, batch=12)
    rows = [{k: v[i : i + 1] for k, v in together.items()} for i in range(12)]
    pairs = [{k: v[i : i + 3] for k, v in together.items()} for i in range(0, 12, 3)]
    whole = ranges_of(graph, [together])
    for other in (ranges_of(graph, rows), ranges_of(graph, rows[::-1]), ranges_of(graph, pairs)):
        for tensor in whole:
            a, b = whole.by_tensor[tensor], other.by_tensor[tensor]
            assert (a.min, a.max) == pytest.approx((b.min, b.max), rel=1e-5, abs=1e-6)


def roots() -> Graph:
    return net([node("Sqrt", "x", "root"), node("Relu", "root", "y")], {"x": ["n"]}, ["y"])


@pytest.mark.parametrize("length", [1, 3, 64, 1001])
@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_a_nan_anywhere_names_its_tensor_and_sample(length: int, where: float) -> None:
    bad = np.ones(length, np.float32)
    bad[int(where * (length - 1))] = -1
    with pytest.raises(CalibrationError, match=r"tensor 'root' became NaN on sample 1\b"):
        ranges_of(roots(), [{"x": np.ones(length, np.float32)}, {"x": bad}])


def test_infinities_are_kept() -> None:
    graph = net([node("Log", "x", "log"), node("Softmax", "log", "y")], {"x": ["n"]}, ["y"])
    assert ranges_of(graph, [{"x": np.array([0, 1, 1], np.float32)}]).by_tensor["log"] == Range(-np.inf, 0)


def test_a_tensor_without_elements_changes_nothing() -> None:
    empty, two = {"x": np.zeros(0, np.float32)}, {"x": np.array([4, 9], np.float32)}
    assert ranges_of(roots(), [empty, two, empty]).by_tensor["root"] == Range(2, 3)
    assert ranges_of(roots(), [empty]).by_tensor["root"] == Range(0, 0)


def test_no_samples_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"no samples in photos: give at least one"):
        collect_ranges(roots(), ["root"], [], "photos", lambda count: None)


def test_the_graph_is_left_as_it_was_and_ticks_count() -> None:
    graph, ticks = conv_net(), []
    before = ir.to_proto(graph.model).SerializeToString()
    located = [(str(i), s) for i, s in enumerate(samples_for(graph, 3))]
    collect_ranges(graph, ["relu"], located, "made", ticks.append)
    assert ticks == [1, 2, 3]
    assert ir.to_proto(graph.model).SerializeToString() == before


def resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the resident memory as Linux gives it")
def test_memory_does_not_grow_with_the_number_of_samples() -> None:
    graph = net([node("Relu", "x", "r"), node("Neg", "r", "y")], {"x": ["n"]}, ["y"])
    values = np.ones(1 << 16, np.float32)  # 256 KiB each: 1000 kept samples would be 250 MiB

    def stream(count: int) -> Iterator[tuple[str, Sample]]:
        for i in range(count):
            yield str(i), {"x": values * np.float32(i)}

    names = observed_tensors(graph)
    collect_ranges(graph, names, stream(50), "made", lambda count: None)
    gc.collect()
    before = resident_bytes()
    ranges = collect_ranges(graph, names, stream(1000), "made", lambda count: None)
    assert ranges.by_tensor["y"] == Range(-999, 0)
    assert resident_bytes() - before < 40 << 20
