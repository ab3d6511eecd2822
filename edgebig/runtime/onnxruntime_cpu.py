"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from edgebig.errors import BackendError, MissingExtra
from edgebig.runtime.backend import CLOSED, Array
from edgebig.runtime.onnxruntime_session import NativeSession, open_on_cpu
from edgebig.spec import TensorSpec

_LOG_FATAL = 4
_SLOW_FUSIONS = frozenset(["SkipLayerNormFusion"])
"""As in :mod:`edgebig.build.onnxruntime`: it must not come back when the graph is loaded."""

_DONE_AHEAD = _SLOW_FUSIONS.union(
    ["Level1_RuleBasedTransformer", "Level2_RuleBasedTransformer", "DoubleQDQPairsRemover", "ConstantSharing"],
    ["CommonSubexpressionElimination", "ConstantFolding", "MatMulAddFusion", "ReshapeFusion", "GeluFusionL1"],
    ["LayerNormFusionL1", "QDQPropagationTransformer", "WeightBiasQuantization", "EnsureUniqueDQForNodeUnit"],
    ["TransposeOptimizer", "QDQS8ToU8Transformer", "QDQSelectorActionTransformer", "GemmActivationFusion"],
    ["MatMulIntegerToFloatFusion", "DynamicQuantizeMatMulFusion", "ConvActivationFusion", "GeluFusionL2"],
    ["LayerNormFusionL2", "SimplifiedLayerNormFusion", "AttentionFusion", "EmbedLayerNormFusion"],
    ["GatherSliceToSplitFusion", "GatherToSliceFusion", "MatmulTransposeFusion", "BiasGeluFusion"],
    ["FastGeluFusion", "QuickGeluFusion", "BiasSoftmaxFusion", "BiasDropoutFusion", "MatMulScaleFusion"],
    ["MatMulNBitsFusion", "QDQFinalCleanupTransformer"],
)
"""Optimizers of ONNX Runtime's levels BASIC and EXTENDED: what :mod:`edgebig.build.onnxruntime` had done to a graph.
Not to try them again saves a tenth of the time in which a sentence model loads. Those of the level ALL, which suit the
layout of weights to the exact processor, are not among them. A name that a version does not know does nothing.
``onnxruntime/core/optimizer/graph_transformer_utils.cc`` lists them."""

_LINE = 64
_DTYPES = {"float": "float32", "double": "float64", "float8e4m3fn": "float8_e4m3fn"}


class OnnxRuntimeCpu:
    """An ONNX graph in ONNX Runtime's CPU provider; a :class:`~edgebig.runtime.backend.Backend`."""

    name = "onnxruntime-cpu"
    takes_any_buffer = True

    def __init__(self, graph: Path, *, optimize: bool, done_ahead: bool = False, threads: int | None = None) -> None:
        """Loads the graph, with its external data from the same folder.

        Args:
            graph: the ONNX file; the caller has checked its hash.
            optimize: every graph optimization, or none. ONNX Runtime 1.32 computes something else for
                Q/DQ graphs that were made for TensorRT: it drops a Relu before a symmetric Q, of FP8
                above its basic level, and of FP16 tensors at that level already.
            done_ahead: whether this very version of ONNX Runtime wrote the graph, optimized for this architecture: what
                it did then is not tried again.
            threads: threads within one operator.

        Raises:
            MissingExtra: onnxruntime is not installed.
            BackendError: ONNX Runtime refuses the graph.
        """
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_FATAL
        if not optimize:  # the default are all of them
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if threads is not None:
            options.intra_op_num_threads = threads
        self._graph = graph.name
        try:
            session = open_on_cpu(ort, str(graph), options, _DONE_AHEAD if done_ahead else _SLOW_FUSIONS)
        except Exception as error:  # its errors have no common base but this
            raise BackendError(f"ONNX Runtime {ort.__version__} does not open {graph.name}: {brief(error)}") from error
        self._session: Any = session
        self._options = ort.RunOptions
        self._run: Callable[..., list[Array]] | None = session.run

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The specs that the graph itself declares.

        Raises:
            BackendError: it was closed.
        """
        return tuple(spec_of(node) for node in self._opened().get_inputs())

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """As :attr:`inputs`."""
        return tuple(spec_of(node) for node in self._opened().get_outputs())

    def run(self, outputs: Sequence[str], feeds: dict[str, Array]) -> list[Array]:
        """The named outputs, in that order.

        Raises:
            BackendError: ONNX Runtime failed, or it was closed.
        """
        run = self._run
        if run is None:
            raise BackendError(CLOSED)
        try:
            return run(outputs, feeds, None)
        except Exception as error:
            raise self._failed(error) from error

    def token(self) -> Any:
        """ONNX Runtime's ``RunOptions``: a run looks at its ``terminate`` between two nodes."""
        return self._options()

    def run_until(self, token: Any, outputs: Sequence[str], feeds: dict[str, Array]) -> list[Array]:
        """As :meth:`run`, but fails soon after ``token.terminate`` was set.

        Raises:
            BackendError: ONNX Runtime failed, was told to stop, or was closed.
        """
        run = self._run
        if run is None:
            raise BackendError(CLOSED)
        try:
            return run(outputs, feeds, token)
        except Exception as error:
            raise self._failed(error) from error

    def buffer(self, shape: tuple[int, ...], dtype: str) -> Array:
        """Zeros, at an address that is a multiple of a cache line."""
        return aligned_zeros(shape, dtype)

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> BoundToOnnxRuntime:
        """Ties arrays to ONNX Runtime's I/O binding: it reads and writes them in place.

        Raises:
            BackendError: ONNX Runtime refuses them, or it was closed.
        """
        session = self._opened()
        try:
            return BoundToOnnxRuntime(session, inputs, outputs, self._failed)
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Drops ONNX Runtime's session; it lives on until runs in other threads have ended."""
        self._run = self._session = None

    def _opened(self) -> Any:
        session = self._session
        if session is None:
            raise BackendError(CLOSED)
        return session

    def _failed(self, error: Exception) -> BackendError:
        return BackendError(f"ONNX Runtime failed while running {self._graph}: {brief(error)}")


class BoundToOnnxRuntime:
    """Arrays that ONNX Runtime computes from and into; a :class:`~edgebig.runtime.backend.Bound`."""

    def __init__(
        self,
        session: Any,
        inputs: Mapping[str, Array],
        outputs: Mapping[str, Array | None],
        failed: Callable[[Exception], BackendError],
    ) -> None:
        value = import_onnxruntime().OrtValue.ortvalue_from_numpy  # shares the array's memory on the CPU
        self._failed = failed
        self._binding: Any = session.io_binding()
        for name, array in inputs.items():
            self._binding.bind_ortvalue_input(name, value(array))
        for name, buffer in outputs.items():
            if buffer is None:
                self._binding.bind_output(name, "cpu")
            else:
                self._binding.bind_ortvalue_output(name, value(buffer))
        self._free = [(place, name) for place, (name, array) in enumerate(outputs.items()) if array is None]
        is_native = isinstance(session, NativeSession)
        self._run = session.run_native_binding if is_native else session.run_with_iobinding
        self._given = self._binding._iobinding if is_native else self._binding
        self._kept = (inputs, outputs)

    def run(self) -> Sequence[Array]:
        """Computes; returns the outputs that have no buffer.

        Raises:
            BackendError: ONNX Runtime failed.
        """
        try:
            self._run(self._given, None)
        except Exception as error:
            raise self._failed(error) from error
        return self._made() if self._free else ()

    def close(self) -> None:
        """Lets go of the arrays."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._kept = ({}, {})

    def _made(self) -> list[Array]:
        values = self._binding.get_outputs()
        arrays = [values[place].numpy() for place, _ in self._free]
        for _, name in self._free:  # else the next run would write into this one's memory, at this one's shape
            self._binding.bind_output(name, "cpu")
        return arrays


def aligned_zeros(shape: tuple[int, ...], dtype: str) -> Array:
    """An array of zeros whose first element lies at a multiple of a cache line (64 bytes)."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    raw = np.zeros(size + _LINE, np.uint8)
    start = -raw.ctypes.data % _LINE
    return raw[start : start + size].view(kind).reshape(shape)


def import_onnxruntime() -> ModuleType:
    """The module ``onnxruntime``.

    Raises:
        MissingExtra: it is not installed.
        BackendError: it is, but does not load on this machine.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtra("cpu", error.name or "onnxruntime") from error
    except ImportError as error:
        raise BackendError(f"onnxruntime is installed but does not load: {error}") from error
    module: ModuleType = onnxruntime
    return module


def brief(error: Exception) -> str:
    """The error's text without ONNX Runtime's code prefix, of a length that people read."""
    import re  # what is compiled here would slow every load

    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
    return text if len(text) <= 400 else text[:400] + "…"


def spec_of(node: Any) -> TensorSpec:
    """What ONNX Runtime says of an input or output (a ``NodeArg``), as a spec."""
    kind = node.type[len("tensor(") : -1] if node.type.startswith("tensor(") else node.type
    return TensorSpec(node.name, _DTYPES.get(kind, kind), tuple(node.shape))
