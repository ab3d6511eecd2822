"""Counted tensors: the same histograms whatever the memory budget, the batch, and whether they were fetched."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from cli_runner import environment
from nets import Sample, attention_net, net, node, normal, samples_for

from edgebig.calibrate import METHODS, Collected, collect
from edgebig.calibrate.probe import with_probes
from edgebig.calibrate.statistics import TensorStatistics
from edgebig.errors import CalibrationError
from edgebig.graph import Executor, Graph
from edgebig.quantize import observed_tensors


def moves() -> Graph:
    """Operators that compute exactly, so that values are the same bit for bit however the graph is optimized."""
    return net(
        [
            node("Relu", "x", "relu"),
            node("Reshape", "relu shape", "flat"),
            node("Transpose", "flat", "turned", perm=[1, 0]),
            node("Neg", "x", "neg"),
            node("Transpose", "neg", "other", perm=[1, 0]),
            node("Mul", "other four", "wide"),
            node("Concat", "turned wide turned", "joined", axis=0),
            node("Unsqueeze", "joined zero", "deep"),
            node("Identity", "deep", "y"),
        ],
        {"x": ["n", 6]},
        ["y"],
        {"shape": np.int64([-1, 6]), "zero": np.int64([0]), "four": np.array(4, np.float32)},
    )


def located(samples: Sequence[Sample]) -> list[tuple[str, Sample]]:
    return [(f"sample {i}", s) for i, s in enumerate(samples)]


def fetched(graph: Graph, names: Sequence[str], samples: Sequence[Sample]) -> dict[str, TensorStatistics]:
    """Statistics of values that are all fetched and counted one tensor after the other."""
    computed, _ = with_probes(graph, [], [], [n for n in names if n not in {s.name for s in graph.inputs}])
    found = {name: TensorStatistics(counted=True) for name in names}
    with Executor(computed, "off") as executor:
        for sample in samples:
            for name, values in {**sample, **executor.run(sample)}.items():
                found[name].update(float(values.min()), float(values.max()), values)
    return found


def state(s: TensorStatistics) -> Any:
    histogram = None if s.histogram is None else (s.histogram.exponent, s.histogram.counts.tobytes())
    return s.samples, s.unbounded, s.smallest, s.largest, s.sums, histogram


def states(collected: Collected) -> Any:
    return [{name: state(s) for name, s in part.items()} for part in (collected.statistics, *collected.halves)]


@pytest.mark.parametrize("order", [1, -1])
def test_derived_tensors_are_as_if_fetched(order: int) -> None:
    graph, samples = moves(), samples_for(moves(), 5, batch=3)
    names = observed_tensors(graph)[::order]
    _, probes = with_probes(graph, names, names)
    assert set(probes.derived) == {"flat", "turned", "other", "joined", "deep", "y"}
    found = collect(graph, names, located(samples), "made", counted=names)
    assert {n: state(s) for n, s in found.statistics.items()} == {
        n: state(s) for n, s in fetched(graph, names, samples).items()
    }
    for half, part in zip(found.halves, (samples[1::2], samples[0::2]), strict=True):
        assert {n: state(s) for n, s in half.items()} == {n: state(s) for n, s in fetched(graph, names, part).items()}


def test_the_average_of_joined_tensors_is_that_of_the_whole() -> None:
    graph = net(
        [node("Relu", "x", "a"), node("Neg", "x", "b"), node("Concat", "a b", "y", axis=0)], {"x": ["n"]}, ["y"]
    )
    samples = [{"x": np.float32([3, -1])}, {"x": np.float32([1, -2])}]
    found = collect(graph, ["a", "b", "y"], located(samples), "made", counted=["a", "b", "y"])
    # the smallest are -3 and -1, the largest 3 and 2
    assert found.statistics["y"].mean_extremes == (-2.0, 2.5)
    assert found.statistics["y"].samples == 2


def test_a_part_that_is_empty_on_some_samples() -> None:
    graph = net(
        [node("Relu", "past", "a"), node("Relu", "x", "b"), node("Concat", "a b", "y", axis=0)],
        {"past": ["p"], "x": ["n"]},
        ["y"],
    )
    names = ["a", "b", "y"]
    samples = [
        {"past": np.zeros(0, np.float32), "x": np.float32([1, 2])},
        {"past": np.float32([5]), "x": np.float32([3])},
    ]
    found = collect(graph, names, located(samples), "made", counted=names)
    kept = {n: found.statistics[n] for n in names}
    assert {n: s.samples for n, s in kept.items()} == {"a": 1, "b": 2, "y": 2}
    assert kept["y"].mean_extremes == (2.0, 3.5)
    assert kept["y"].histogram is not None and kept["y"].histogram.total == 4


@pytest.mark.parametrize("memory", [1, 100, 300, 1 << 20])
def test_the_memory_budget_changes_nothing(memory: int) -> None:
    graph, samples = attention_net(), samples_for(attention_net(), 4)
    names = observed_tensors(graph)
    some = names[::2]
    found = collect(graph, names, located(samples), "made", counted=some, memory=memory)
    usual = collect(graph, names, located(samples), "made", counted=some)
    assert states(found) == states(usual)
    assert [n for n, s in found.statistics.items() if s.histogram is not None] == some


def test_only_inputs_are_counted() -> None:
    graph = net([node("Relu", "x", "y")], {"x": ["n"]}, ["y"])
    found = collect(graph, ["x"], located([{"x": np.float32([1, -4, 0])}]), "made", counted=["x"]).statistics["x"]
    assert (found.smallest, found.largest) == (-4, 1)
    assert found.histogram is not None and found.histogram.total == 3


def test_a_nan_in_a_counted_tensor_names_it_and_the_sample() -> None:
    graph = net([node("Sqrt", "x", "root"), node("Relu", "root", "y")], {"x": ["n"]}, ["y"])
    samples = located([{"x": np.ones(2, np.float32)}, {"x": np.float32([1, -1])}, {"x": np.ones(2, np.float32)}])
    with pytest.raises(CalibrationError, match=r"tensor 'root' became NaN on sample 1\b"):
        collect(graph, ["root", "y"], samples, "made", counted=["root", "y"])


@pytest.mark.parametrize("method", METHODS)
def test_rows_and_batches_give_the_same_scales(method: str) -> None:
    graph = moves()
    rows = normal(32, 6, seed=4)
    ones = [{"x": row[None]} for row in rows]
    names = observed_tensors(graph)

    def ranges(samples: Sequence[Sample]) -> Any:
        return collect(graph, names, located(samples), "made", counted=names).ranges(METHODS[method]()).by_tensor

    assert ranges(ones) == ranges(ones[::-1])
    if method != "average-min-max":  # whose samples are the batches
        assert ranges(ones) == ranges([{"x": rows}])


MEASURE = """
import resource
import sys
sys.path.insert(0, "tests")
import numpy as np
from nets import net, node
from edgebig.calibrate import collect

graph = net([node("Relu", "x", "r"), node("Exp", "r", "y")], {"x": ["n"]}, ["y"])
values = np.linspace(-1, 1, 1 << 16, dtype=np.float32)

def peak(count):
    stream = ((str(i), {"x": values * np.float32(i / count)}) for i in range(count))
    collect(graph, ["x", "r", "y"], stream, "made", counted=["x", "r", "y"])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

few = peak(40)
print(peak(400) - few)
"""


def test_memory_is_flat_when_values_are_counted() -> None:
    pytest.importorskip("resource")
    env = environment()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], cwd=env["PYTHONPATH"], env=env, capture_output=True, text=True, check=True
    )
    # 360 more samples of three tensors would be 270 MiB
    assert int(done.stdout) < 20 << 10
