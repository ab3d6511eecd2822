"""The graph in memory: reading, writing, checking, changing and running it."""

from edgebig.graph.execute import Executor
from edgebig.graph.graph import Graph

__all__ = ["Executor", "Graph"]
