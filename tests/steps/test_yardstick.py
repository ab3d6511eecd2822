"""What is measured of a graph without labels: the worst input, and the mean of all."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from nets import net, node

from edgebig.graph import Graph
from edgebig.source import SourcePart
from edgebig.steps.work import PartWork
from edgebig.steps.yardstick import Yardstick
from edgebig.verify import Golden


def scaled(*factor: float) -> Graph:
    return net([node("Mul", "x f", "y")], {"x": [2]}, ["y"], {"f": np.array(factor, np.float32)})


@pytest.fixture
def yardstick() -> Yardstick:
    inputs = [{"x": np.array(x, np.float32)} for x in ([1, 0], [1, 1], [0, 1])]
    part = PartWork(SourcePart("model", scaled(1, 1), Path("model.onnx")), scaled(1, 1), {})
    part.golden = Golden(inputs, [{"y": sample["x"]} for sample in inputs], "test")
    return Yardstick(part, None)


def test_the_worst_and_the_mean(yardstick: Yardstick) -> None:
    # only [1, 1] changes its direction: to [1, 0], which is 45 degrees
    angle = 1 - math.sqrt(0.5)
    same, wrong = scaled(2, 2), scaled(1, 1e-9)
    assert yardstick.distance(same, "off") == pytest.approx(0, abs=1e-9) == yardstick.mean_distance(same, "off")
    assert yardstick.distance(wrong, "off") == pytest.approx(angle, rel=1e-6)
    assert yardstick.mean_distance(wrong, "off") == pytest.approx(angle / 3, rel=1e-6)


def test_a_graph_that_cannot_be_run_is_infinitely_far(yardstick: Yardstick) -> None:
    other = net([node("Relu", "z", "y")], {"z": [3]}, ["y"])
    assert yardstick.distance(other, "off") == math.inf == yardstick.mean_distance(other, "off")
