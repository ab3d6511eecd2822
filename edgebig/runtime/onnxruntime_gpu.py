"""ONNX Runtime on an NVIDIA GPU: the backends that serve where no engine of the bundle fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np

from edgebig.errors import BackendError, EdgebigError, MissingExtra
from edgebig.runtime.gpu.arrays import DeviceArray
from edgebig.runtime.gpu.cuda import Cuda, import_cuda
from edgebig.runtime.gpu.ort_lane import FixedLane, OrtLane
from edgebig.runtime.gpu.pool import Pool
from edgebig.runtime.gpu.providers import (
    NAMES,
    TITLES,
    Options,
    Profiles,
    Provider,
    cuda_options,
    engine_folder,
    missing_libraries,
    tensorrt_options,
)
from edgebig.runtime.onnxruntime_cpu import brief, import_onnxruntime, spec_of

Array = np.ndarray[Any, Any]
T = TypeVar("T")
_LOG_FATAL = 4


class OnnxRuntimeGpu:
    """An ONNX graph in ONNX Runtime's CUDA or TensorRT provider; a :class:`~edgebig.runtime.backend.Backend`.

    Each thread that runs at a time has an I/O binding of its own. Where all shapes are static and the provider can,
    runs are one CUDA graph, and threads wait for each other.

    Attributes:
        inputs, outputs: the specs that the graph itself declares.
        takes_device_arrays: whether feeds may lie on the GPU, for which cuda-python is needed.
        cuda_graph: whether runs are a CUDA graph.
    """

    def __init__(
        self,
        graph: Path,
        provider: Provider,
        *,
        optimize: bool,
        formats: Sequence[str] = (),
        profiles: Profiles | None = None,
        hashes: Sequence[str] = (),
        device: int = 0,
        tf32: bool = False,
        cuda_graph: bool = True,
        contexts: int = 4,
        onnxruntime: Any = None,
        cuda: Any = None,
    ) -> None:
        """Opens the graph, with its external data from the same folder.

        Args:
            graph: the ONNX file; the caller has checked its hash.
            provider: ``cuda`` or ``tensorrt``. What TensorRT does not take, CUDA runs, and the processor the rest.
            optimize: every graph optimization, or none: as :class:`~edgebig.runtime.onnxruntime_cpu.OnnxRuntimeCpu`.
            formats: number formats of the graph, of which TensorRT may use these and float32.
            profiles: shapes that TensorRT builds for; by default those that come.
            hashes: of the graph and its data, which name the folder of TensorRT's caches; without them nothing is kept.
            device: which GPU, counted from 0.
            tf32: whether CUDA may round float32 factors to 10 bits of mantissa, as TensorFloat-32 does. Off, results
                are those that the bundle's evidence tells of; TensorRT decides by itself.
            cuda_graph: whether to try a CUDA graph, which wants static shapes; with others the graph is opened twice.
            contexts: how many threads run at once; further ones wait.
            onnxruntime, cuda: the modules ``onnxruntime`` and ``cuda.bindings.runtime``; by default those installed.

        Raises:
            MissingExtra: onnxruntime is not installed.
            BackendError: it lacks the provider or its libraries, refuses the graph, or would run it on the processor.
        """
        self._ort = import_onnxruntime() if onnxruntime is None else onnxruntime
        self._graph, self._provider, self._device = graph, provider, device
        refusal = provider_problem(self._ort, provider)
        if refusal:
            raise BackendError(refusal)
        self._cuda = _calls(cuda, device)
        self.takes_device_arrays = self._cuda is not None
        folder = engine_folder(hashes) if provider == "tensorrt" and hashes else None

        def providers(with_graph: bool) -> list[str | tuple[str, Options]]:
            on_cuda = cuda_options(device, tf32=tf32, cuda_graph=with_graph and provider == "cuda")
            listed: list[str | tuple[str, Options]] = [(NAMES["cuda"], on_cuda), "CPUExecutionProvider"]
            if provider == "tensorrt":
                own = tensorrt_options(
                    device, formats=formats, profiles=profiles or {}, folder=folder, cuda_graph=with_graph
                )
                listed.insert(0, (NAMES["tensorrt"], own))
            return listed

        self._session: Any = None
        self._fixed: FixedLane | None = None
        if cuda_graph:
            self._record(lambda: self._open(providers(True), optimize))
        if self._fixed is None:
            self._session = self._open(providers(False), optimize)
        self.inputs = tuple(spec_of(node) for node in self._session.get_inputs())
        self.outputs = tuple(spec_of(node) for node in self._session.get_outputs())
        self._fixed_lock = Lock()
        self._pool: Pool[OrtLane] = Pool(self._new_lane, OrtLane.close, contexts)

    @property
    def cuda_graph(self) -> bool:
        """Whether runs are a CUDA graph."""
        return self._fixed is not None

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Array]:
        """The named outputs, in that order.

        Raises:
            InputError: an array on a GPU cannot be used in place.
            BackendError: ONNX Runtime failed, or it was closed.
        """
        if self._fixed is not None and all(isinstance(value, np.ndarray) for value in feeds.values()):
            with self._fixed_lock:
                fixed = self._fixed
                if fixed is not None:
                    return self._told(lambda: fixed.run(outputs, feeds))
        return self._in_lane(lambda lane: lane.run(outputs, feeds))

    def run_on_device(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[DeviceArray]:
        """As :meth:`run`, but the outputs stay on the GPU, the caller's own."""
        return self._in_lane(lambda lane: lane.run_on_device(outputs, feeds))

    def close(self) -> None:
        """Drops ONNX Runtime's session; it lives on until runs in other threads have ended."""
        self._pool.close()
        with self._fixed_lock:
            fixed, self._fixed = self._fixed, None
            if fixed is not None:
                fixed.close()
        self._session = None

    def _open(self, providers: Sequence[str | tuple[str, Options]], optimize: bool) -> Any:
        ort = self._ort
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_FATAL
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        title = TITLES[self._provider]
        try:
            session = ort.InferenceSession(str(self._graph), options, providers=providers, enable_fallback=0)
        except Exception as error:  # its errors have no common base but this
            raise BackendError(
                f"ONNX Runtime {ort.__version__} does not open {self._graph.name} with {title}: {brief(error)}"
            ) from error
        if session.get_providers()[0] != NAMES[self._provider]:
            raise BackendError(
                f"ONNX Runtime {ort.__version__} fell back to {session.get_providers()[0]} for {self._graph.name}: its "
                f"{title} provider does not start here; 'edgebig doctor' shows the driver, and "
                "onnxruntime.print_debug_info() what it was built for"
            )
        return session

    def _record(self, open_session: Callable[[], Any]) -> None:
        """Tries a session whose runs are one CUDA graph. ONNX Runtime refuses graphs with parts on the processor."""
        try:
            session = open_session()
            inputs = [spec_of(node) for node in session.get_inputs()]
            outputs = [spec_of(node) for node in session.get_outputs()]
            if not all(spec.is_static for spec in (*inputs, *outputs)):
                return
            fixed = FixedLane(self._ort, session, inputs, outputs, ("cuda", self._device))
            fixed.record()
        except Exception:  # BackendError, or whatever ONNX Runtime raises while it records
            return
        self._session, self._fixed = session, fixed

    def _new_lane(self) -> OrtLane:
        lane = OrtLane(self._ort, self._session, self.outputs, ("cuda", self._device), self._cuda)
        if self._fixed is not None:
            lane.without_graph(self._ort.RunOptions())
        return lane

    def _in_lane(self, work: Callable[[OrtLane], T]) -> T:
        lane = self._pool.take()
        try:
            result = self._told(lambda: work(lane))
        except BaseException:
            self._pool.drop(lane)
            raise
        self._pool.give(lane)
        return result

    def _told(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except EdgebigError:
            raise
        except Exception as error:
            raise BackendError(f"ONNX Runtime failed while running {self._graph.name}: {brief(error)}") from error


def provider_absent(onnxruntime: Any, provider: Provider) -> str:
    """Why this ONNX Runtime was made without the provider; empty where it has it. Loads no library."""
    if NAMES[provider] in onnxruntime.get_available_providers():
        return ""
    return (
        f"ONNX Runtime {onnxruntime.__version__} here has no {TITLES[provider]} provider: "
        'pip uninstall onnxruntime, then pip install "edgebig[gpu]"'
    )


def provider_problem(onnxruntime: Any, provider: Provider) -> str:
    """Why the provider cannot start here, as far as one sees without starting it; loads the libraries that it needs."""
    absent = provider_absent(onnxruntime, provider)
    missing = [] if absent else missing_libraries(onnxruntime, provider)
    if not missing:
        return absent
    return (
        f"ONNX Runtime's {TITLES[provider]} provider does not find {', '.join(missing)}: install these versions of CUDA"
        f"{' and TensorRT' if provider == 'tensorrt' else ' and cuDNN'}, or name their folder in LD_LIBRARY_PATH"
    )


def _calls(cuda: Any, device: int) -> Cuda | None:
    """CUDA's calls; without cuda-python none, and arrays in main memory are served all the same."""
    try:
        return Cuda(import_cuda() if cuda is None else cuda, device)
    except MissingExtra:
        return None
