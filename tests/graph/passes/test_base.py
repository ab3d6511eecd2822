"""run_passes: in order, with a check after each pass that changed something."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest
from textnets import as_graph, net

from edgebig.errors import GraphError
from edgebig.graph import Graph
from edgebig.graph.passes import NameNodes, PassReport, RemoveNoOps, run_passes
from edgebig.graph.passes.base import difference, operators


@dataclass(frozen=True)
class Break:
    """A pass with a mistake: it leaves an operator that does not exist."""

    tells: bool
    name = "break"

    def __call__(self, graph: Graph) -> PassReport:
        graph.model.graph[-1].op_type = "NoSuchOperator"
        return PassReport(self.name, ("a mistake",) if self.tells else ())


def test_reports_come_in_the_passes_order() -> None:
    graph = as_graph(net("float[2] x", "float[2] y", "h = Identity(x) y = Relu(h)"))
    reports = run_passes(graph, [RemoveNoOps(), NameNodes(), RemoveNoOps()])
    assert [r.name for r in reports] == ["remove no-ops", "name nodes", "remove no-ops"]
    assert reports[0].changed == ("removed 1 Identity",)
    assert reports[2] == PassReport("remove no-ops")


def test_a_pass_that_makes_the_graph_invalid_is_named() -> None:
    with pytest.raises(GraphError, match="invalid after break: .*NoSuchOperator"):
        run_passes(as_graph(net("float[2] x", "float[2] y", "y = Relu(x)")), [NameNodes(), Break(True)])


@dataclass(frozen=True)
class Crash:
    """A pass that fails as libraries do."""

    name = "crash"

    def __call__(self, graph: Graph) -> PassReport:
        try:
            raise AttributeError("'NoneType' object has no attribute 'numpy'")
        except AttributeError as error:
            raise RuntimeError("an error occurred at step 0") from error


def test_a_pass_that_fails_is_named_with_the_cause() -> None:
    with pytest.raises(GraphError, match="crash failed on the graph tiny: AttributeError: 'NoneType' object"):
        run_passes(as_graph(net("float[2] x", "float[2] y", "y = Relu(x)")), [Crash()])


def test_difference_counts_operators_in_branches_too() -> None:
    body = """y = If(c) <then_branch = t () => (float[2] a) { a = Relu(x) },
        else_branch = e () => (float[2] b) { b = Neg(x) }>"""
    before = operators(as_graph(net("float[2] x, bool c", "float[2] y", body)))
    assert before == Counter({"If": 1, "Relu": 1, "Neg": 1})
    assert difference(before, Counter({"Relu": 3})) == ("removed 1 If", "removed 1 Neg", "added 2 Relu")
    assert difference(before, before) == ()
