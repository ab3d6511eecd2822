"""What a pass is, and how passes are run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgebig.errors import EdgebigError, GraphError
from edgebig.graph.check import check_graph
from edgebig.graph.graph import Graph


@dataclass(frozen=True)
class PassReport:
    """What a pass did.

    Attributes:
        name: the pass's name.
        changed: what it changed, one line each; empty where it changed nothing.
        declined: what it left, and why.
    """

    name: str
    changed: tuple[str, ...] = ()
    declined: tuple[str, ...] = ()


class Pass(Protocol):
    """Changes a graph in place."""

    @property
    def name(self) -> str:
        """The pass's name in reports and messages."""

    def __call__(self, graph: Graph) -> PassReport:
        """Changes the graph and says what was done; raises ``GraphError`` where it cannot."""


def run_passes(graph: Graph, passes: Sequence[Pass]) -> list[PassReport]:
    """Runs the passes in their order, with a check of the whole graph after each that changed it.

    Raises:
        GraphError: a pass failed, or made the graph invalid.
    """
    reports = []
    for step in passes:
        try:
            report = step(graph)
        except EdgebigError:
            raise
        except Exception as error:  # onnx-ir and onnxscript let many kinds through
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            why = f"{type(cause).__name__}: {cause}"[:500]
            raise GraphError(f"{step.name} failed on the graph {graph.name}: {why}") from error
        if report.changed:
            check_graph(graph, step.name)
        reports.append(report)
    return reports


def operators(graph: Graph) -> Counter[str]:
    """How often each operator occurs, subgraphs included."""
    return Counter(node.op_type for node in graph.nodes())


def difference(before: Counter[str], after: Counter[str]) -> tuple[str, ...]:
    """The operators that a pass removed or added, as lines."""
    gone, new = before - after, after - before
    lines = [f"removed {n} {op}" for op, n in gone.most_common()]
    return tuple(lines + [f"added {n} {op}" for op, n in new.most_common()])
