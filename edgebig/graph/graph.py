"""Graph: one ONNX model in memory, as onnx-ir holds it, with what every stage asks of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes.common import InlinePass

from edgebig.errors import GraphError, SourceError
from edgebig.graph.external import check_external_data, external_bytes, read_external_data
from edgebig.graph.memory import move_to_file, own_tensors, write_to
from edgebig.graph.write import write_model
from edgebig.spec import Dim, TensorSpec

MAX_IR_VERSION = 11
"""Newer IR versions are refused by the ONNX Runtimes and TensorRTs that devices carry."""

_EXTERNAL_ABOVE = 1 << 30
"""Bytes of weights above which they go to a file of their own: a protobuf ends at 2 GiB."""

_SMALL = 1000
"""Bytes of a weight up to which it is always in memory: ONNX's checker and shape inference look at its values."""


class Graph:
    """An ONNX graph. Passes change ``model`` in place; :meth:`clone` makes an independent one."""

    def __init__(self, model: ir.Model, name: str = "model") -> None:
        self.model = model
        self.name = name

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Reads an ``.onnx`` file; beyond a gibibyte, weights in external data files stay there until they are needed.

        Raises:
            SourceError: no such file, not an ONNX model, cut short, or external data that is
                missing, cut short or outside the model's folder.
        """
        path = Path(path)
        try:
            proto = onnx.load(path, load_external_data=False)
        except FileNotFoundError as error:
            raise SourceError(f"no such file: {path}") from error
        except OSError as error:
            raise SourceError(f"cannot read {path}: {error.strerror}") from error
        except (DecodeError, ValueError, RuntimeError) as error:
            raise SourceError(
                f"{path} is not an ONNX model, or is cut short ({error}): export or copy it anew"
            ) from error
        if not proto.ir_version or not proto.graph.output or not proto.opset_import:
            raise SourceError(f"{path} is not an ONNX model (no graph with outputs in it): export or copy it anew")
        check_external_data(proto, path)
        read_external_data(proto, path, _SMALL if external_bytes(proto) > _EXTERNAL_ABOVE else _EXTERNAL_ABOVE)
        try:
            model = ir.from_proto(proto)
            ir.external_data.set_base_dir(model.graph, path.parent)
            for function in model.functions.values():
                ir.external_data.set_base_dir(function.graph, path.parent)
            if model.functions:
                # local functions would hide their nodes from every pass
                InlinePass()(model)
            graph = cls(model, path.stem)
            move_to_file(model.graph)
            own_tensors(graph.nodes(), model.graphs())
        except Exception as error:  # onnx-ir lets many kinds through
            raise SourceError(f"{path} is a damaged ONNX model ({error}): export or copy it anew") from error
        graph._drop_initializer_inputs()
        model.ir_version = min(max(model.ir_version, 8), MAX_IR_VERSION)
        return graph

    def _drop_initializer_inputs(self) -> None:
        """IR version 3 lists weights among the inputs; nothing feeds them."""
        inputs = self.model.graph.inputs
        for value in [v for v in inputs if v.name in self.model.graph.initializers]:
            inputs.remove(value)

    def save(self, path: Path) -> None:
        """Writes the graph to ``path``, with large weights in ``<path>.data`` beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self.weight_bytes > _EXTERNAL_ABOVE:
                ir.save(self.model, path, external_data=f"{path.name}.data")
            else:
                write_model(self.model, path)
        except OSError:
            raise
        except Exception as error:  # onnx-ir wraps the file system's errors
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, OSError):
                cause = cause.__cause__
            if cause is not None:
                raise cause from error
            raise GraphError(f"cannot write the graph {self.name}: {error}") from error

    def clone(self) -> Graph:
        """An independent graph that shares the weights' memory."""
        return Graph(self.model.clone(), self.name)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of what the graph takes, in its order."""
        return tuple(_spec(v) for v in self.model.graph.inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Specs of what the graph gives, in its order."""
        return tuple(_spec(v) for v in self.model.graph.outputs)

    @property
    def opset(self) -> int:
        """Version of the standard operator set."""
        return self.model.opset_imports.get("", 0)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights, those in subgraphs included."""
        return sum(tensor.nbytes for tensor in self.weights())

    def nodes(self) -> list[ir.Node]:
        """Every node, those in subgraphs included."""
        return list(ir.traversal.RecursiveGraphIterator(self.model.graph))

    def weights(self) -> list[ir.TensorProtocol]:
        """Every initializer's tensor, those in subgraphs included."""
        found = [v.const_value for g in self.model.graphs() for v in g.initializers.values()]
        return [tensor for tensor in found if tensor is not None]

    def digest(self) -> bytes:
        """SHA-256 of all that the graph computes with: nodes, weights, inputs and outputs."""
        digest = hashlib.sha256(repr((self.inputs, self.outputs, self.opset)).encode())
        for node in self.model.graph:
            digest.update(ir.to_proto(node).SerializeToString(deterministic=True))
        for value in self.model.graph.initializers.values():
            digest.update(str(value.name).encode())
            if value.const_value is not None:
                write_to(value.const_value, _Hashed(digest))
        return digest.digest()

    def require_input(self, name: str) -> ir.Value:
        """The graph's input of that name.

        Raises:
            GraphError: there is none.
        """
        for value in self.model.graph.inputs:
            if value.name == name:
                return value
        names = ", ".join(str(v.name) for v in self.model.graph.inputs)
        raise GraphError(f"the model has no input {name!r}: its inputs are {names}")


@dataclass(frozen=True)
class _Hashed:
    """A file for a digest."""

    digest: hashlib._Hash

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return len(data)


def dtype_name(dtype: ir.DataType | None) -> str:
    """NumPy's name of an ONNX element type; ONNX's own, in lower case, where NumPy has none."""
    if dtype is None:
        return "unknown"
    return {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16"}.get(dtype.name, dtype.name.lower())


def shape_of(value: ir.Value) -> tuple[Dim, ...] | None:
    """A value's shape, dynamic axes by their names; ``None`` where its rank is unknown."""
    if value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else (d.value or None) for d in value.shape)


def _spec(value: ir.Value) -> TensorSpec:
    dtype = dtype_name(value.dtype)
    if value.dtype is not None and dtype.startswith(("float4", "float6", "float8")):
        dtype = value.dtype.numpy().name  # ml_dtypes' name, as the bundle has it
    return TensorSpec(str(value.name), dtype, shape_of(value) or ())
