"""Gives inputs their shapes."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from edgebig.errors import GraphError, UsageError
from edgebig.graph.graph import Graph, shape_of
from edgebig.graph.passes.base import PassReport
from edgebig.graph.shapes import infer_shapes
from edgebig.spec import Dim

_NAME = re.compile(r"[A-Za-z_]\w*")
_EXPRESSION = re.compile(r"\w+(?: *(?:\+|-|\*|//) *\w+)+")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True)
class SetShapes:
    """Sets the shape of each named input and lets every other shape follow from them.

    A dynamic axis that becomes a size becomes it wherever its name occurs among the inputs, in sums and products of
    names too (``past + length``), and the shapes inside the graph are inferred anew, since those of the old shape no
    longer hold.
    """

    shapes: Mapping[str, tuple[Dim, ...]]
    name = "set shapes"

    def __call__(self, graph: Graph) -> PassReport:
        known: dict[str, int] = {}
        changed = []
        for name, new in self.shapes.items():
            value, old = self._input(graph, name)
            if old is not None:
                self._check(name, old, new)
                for axis, size in zip(old, new, strict=True):
                    if isinstance(axis, str) and isinstance(size, int) and known.setdefault(axis, size) != size:
                        raise UsageError(
                            f"--shapes: the axis {axis} is one size, found {known[axis]} and {size} (in {name})"
                        )
            if old != new:
                value.shape = ir.Shape(new)
                changed.append(f"{name}: {_text(old)} became {_text(new)}")
        for value in graph.model.graph.inputs:
            old = shape_of(value)
            new = tuple(_settled(dim, known) for dim in old or ())
            if old is not None and new != old:
                value.shape = ir.Shape(new)
                changed.append(f"{value.name}: {_text(old)} became {_text(new)}")
        if changed:
            infer_shapes(graph)
        return PassReport(self.name, tuple(changed))

    def _input(self, graph: Graph, name: str) -> tuple[ir.Value, tuple[Dim, ...] | None]:
        try:
            value = graph.require_input(name)
        except GraphError as error:
            raise UsageError(f"--shapes: {error}") from error
        return value, shape_of(value)

    def _check(self, name: str, old: tuple[Dim, ...], new: tuple[Dim, ...]) -> None:
        if len(old) != len(new):
            raise UsageError(f"--shapes: {name} has {len(old)} axes ({_text(old)}), found {len(new)} ({_text(new)})")
        for a, b in zip(old, new, strict=True):
            if isinstance(a, int) and a != b:
                raise UsageError(f"--shapes: {name} has the fixed shape {_text(old)}, found {_text(new)}")


def _settled(dim: Dim, known: Mapping[str, int]) -> Dim:
    """An axis with the sizes of those that became one: ``past + length`` becomes ``past + 8``, or 72."""
    if not isinstance(dim, str) or dim in known:
        return known[dim] if isinstance(dim, str) else dim
    if not _EXPRESSION.fullmatch(dim):
        return dim
    text = _NAME.sub(lambda found: str(known.get(found[0], found[0])), dim)
    if text == dim or _NAME.search(text):
        return text
    size = _number(ast.parse(text, mode="eval").body)
    return dim if size is None or size < 0 else size


def _number(node: ast.expr) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _number(node.left), _number(node.right)
        if left is not None and right is not None and not (isinstance(node.op, ast.FloorDiv) and right == 0):
            return _OPERATORS[type(node.op)](left, right)
    return None


def _text(shape: tuple[Dim, ...] | None) -> str:
    return "x".join("?" if d is None else str(d) for d in shape) or "scalar" if shape is not None else "unknown"
