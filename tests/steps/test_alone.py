"""Groups quantized alone, from the tensors before them on: the same losses as with the whole graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from nets import Graph, Sample, attention_net, conv_net, net, node, normal, ranges_of, residual_net, samples_for

from edgebig.graph.work import observed_shapes
from edgebig.quantize import Plan, insert_qdq, make_plan, planned_layers
from edgebig.quantize.search import group_layers
from edgebig.recipe import Recipe
from edgebig.source import SourcePart
from edgebig.steps.alone import Alone, Choice
from edgebig.steps.work import PartWork
from edgebig.steps.yardstick import Yardstick
from edgebig.target import Target
from edgebig.verify import Golden, outputs_of


def embedded_net() -> Graph:
    """ids 1x5 -> rows of a table that is quantized in every trial -> two products, and an output before the second."""
    return net(
        [
            node("Gather", "table ids", "rows"),
            node("MatMul", "rows wa", "early"),
            node("Relu", "early", "r"),
            node("MatMul", "r wb", "b"),
            node("Add", "b rows", "y"),
        ],
        {"ids": [1, 5]},
        ["early", "y"],
        {"table": normal(2048, 64), "wa": normal(64, 64, seed=1, scale=0.2), "wb": normal(64, 64, seed=2, scale=0.2)},
        types={"ids": "int64"},
    )


NETS = {"conv": conv_net, "residual": residual_net, "attention": attention_net, "embedded": embedded_net}


class Setting:
    """A net with its groups and its plans, and what measures."""

    def __init__(self, name: str, target: str) -> None:
        self.graph = NETS[name]()
        self.samples: list[Sample] = (
            [{"ids": np.random.default_rng(i).integers(0, 2048, (1, 5))} for i in range(4)]
            if name == "embedded"
            else samples_for(self.graph, 4)
        )
        ranges, device, base = ranges_of(self.graph, self.samples), Target.load(target), "int8"
        self.level = "off" if device.is_nvidia else "all"
        groups = group_layers(self.graph, planned_layers(self.graph, device, Recipe(), base))
        self.groups = {g.name: g.layers for g in groups}
        everything = [layer for layers in self.groups.values() for layer in layers]

        def plan_of(choice: Choice) -> Plan:
            formats = dict.fromkeys(everything, "float")
            formats |= {layer: fmt for group, fmt in choice.items() for layer in self.groups[group]}
            return make_plan(self.graph, ranges, device, Recipe(), base, formats)

        self.plan_of = plan_of
        golden = Golden(self.samples, outputs_of(self.graph, self.samples, "all"), "made")
        part = PartWork(SourcePart("model", self.graph, Path("m.onnx")), self.graph, {}, golden=golden)
        self.yardstick = Yardstick(part, None)

    def alone(self, memory: int = 1 << 20) -> Alone:
        shapes = observed_shapes(self.graph, self.samples[0])
        return Alone(self.graph, self.groups, self.plan_of, self.yardstick, self.level, shapes, memory)

    def whole(self, choice: Choice) -> float:
        quantized = self.graph.clone()
        insert_qdq(quantized, self.plan_of(choice))
        return self.yardstick.mean_distance(quantized, self.level)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("target", ["cpu", "l4"])
def test_the_loss_is_the_whole_graphs(name: str, target: str) -> None:
    setting = Setting(name, target)
    alone = setting.alone()
    formats = ("int8", "fp8") if target == "l4" else ("int8",)
    losses = {(g, f): (alone.loss({g: f}), setting.whole({g: f})) for g in setting.groups for f in formats}
    assert len(losses) >= 2
    for found, expected in losses.values():
        assert found == expected
    assert max(expected for _, expected in losses.values()) > 1e-7
    # the rows of a quantized table have another name, so that a group that reads them takes the whole graph
    assert (alone.prefixes, alone.wholes) == (1, 1 if (name, target) == ("embedded", "cpu") else 0)


def test_in_little_memory_the_graph_is_run_anew_for_each_group() -> None:
    setting = Setting("conv", "cpu")
    roomy, tight = setting.alone(), setting.alone(memory=1)
    for group in setting.groups:
        assert tight.loss({group: "int8"}) == roomy.loss({group: "int8"})
    # the first group reads the graph's own input
    assert (roomy.prefixes, tight.prefixes) == (1, len(setting.groups) - 1)


def test_groups_may_be_asked_for_in_any_order_and_again() -> None:
    setting = Setting("residual", "l4")
    forwards, backwards = setting.alone(), setting.alone()
    names = list(setting.groups)
    first = {g: forwards.loss({g: "int8"}) for g in names}
    assert {g: backwards.loss({g: "int8"}) for g in reversed(names)} == first
    assert {g: forwards.loss({g: "int8"}) for g in names} == first
    assert forwards.prefixes == 1


def test_a_choice_that_reaches_before_its_group_is_measured_whole() -> None:
    setting = Setting("conv", "cpu")
    names = list(setting.groups)
    # the plan of the last group quantizes the first one too
    both = {names[0]: "int8", names[-1]: "int8"}
    plan_of = setting.plan_of
    setting.plan_of = lambda choice: plan_of(both if choice else {})
    alone = setting.alone()
    assert alone.loss({names[-1]: "int8"}) == setting.whole(both) and alone.wholes == 1
