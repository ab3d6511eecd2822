"""Makes constants of inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgebig.errors import GraphError, UsageError
from edgebig.graph.graph import Graph
from edgebig.graph.passes.base import PassReport
from edgebig.graph.values import static_shape

Value = int | float | bool


@dataclass(frozen=True)
class FreezeInputs:
    """Replaces each named input by a constant tensor of its shape (every element has the value).

    An ``If`` on such an input disappears with the constant folding that follows.
    """

    values: Mapping[str, Value]
    name = "freeze inputs"

    def __call__(self, graph: Graph) -> PassReport:
        for name, value in self.values.items():
            self._freeze(graph, name, value)
        return PassReport(self.name, tuple(f"{name} = {value}" for name, value in self.values.items()))

    def _freeze(self, graph: Graph, name: str, value: Value) -> None:
        try:
            old = graph.require_input(name)
        except GraphError as error:
            raise UsageError(f"--freeze {name}={value}: {error}") from error
        shape = static_shape(old.shape)
        if shape is None:
            raise UsageError(f"--freeze {name}={value}: the input has the dynamic shape {old.shape}: give --shapes too")
        if old.dtype is None:
            raise UsageError(f"--freeze {name}={value}: the input has no dtype")
        dtype = old.dtype.numpy()
        with np.errstate(over="ignore"):
            array = np.full(shape, value).astype(dtype)
        # NumPy finds 1e6 equal to the infinity that it becomes in float16
        overflowed = not math.isinf(value) and np.any(np.isinf(array))
        if overflowed or not np.all(array == value):
            raise UsageError(f"--freeze {name}={value}: the value does not fit the input's dtype {dtype}")
        graph.model.graph.inputs.remove(old)
        new = ir.Value(
            name=name,
            shape=ir.Shape(array.shape),
            type=ir.TensorType(old.dtype),
            const_value=ir.tensor(array, name=name),
        )
        graph.model.graph.register_initializer(new)
        ir.convenience.replace_all_uses_with(old, new)
