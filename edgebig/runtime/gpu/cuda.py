"""CUDA's runtime through cuda-python: each call that the GPU backends make, with its error checked.

The module ``cuda.bindings.runtime`` (cuda-python 12.6 to 13) is passed in, so that tests can give one that keeps a
record. Its functions return a tuple: the error, and what they make.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from edgebig.errors import BackendError, MissingExtra

# After these no call of the process reaches the device any more: CUDA calls them sticky, or there is no device.
_GONE = frozenset(
    [
        "cudaErrorCudartUnloading",
        "cudaErrorDevicesUnavailable",
        "cudaErrorNoDevice",
        "cudaErrorInvalidDevice",
        "cudaErrorInitializationError",
        "cudaErrorECCUncorrectable",
        "cudaErrorNvlinkUncorrectable",
        "cudaErrorContained",
        "cudaErrorIllegalAddress",
        "cudaErrorLaunchTimeout",
        "cudaErrorContextIsDestroyed",
        "cudaErrorAssert",
        "cudaErrorHardwareStackError",
        "cudaErrorIllegalInstruction",
        "cudaErrorMisalignedAddress",
        "cudaErrorInvalidAddressSpace",
        "cudaErrorInvalidPc",
        "cudaErrorLaunchFailure",
        "cudaErrorTensorMemoryLeak",
        "cudaErrorSystemNotReady",
        "cudaErrorMpsRpcFailure",
        "cudaErrorMpsClientTerminated",
        "cudaErrorExternalDevice",
        "cudaErrorUnknown",
    ]
)

Stream = Any
"""A ``cudaStream_t``; ``int(stream)`` is its handle."""


class CudaError(BackendError):
    """A call of CUDA failed.

    Attributes:
        name: CUDA's name of the error (``cudaErrorMemoryAllocation``).
        gone: whether the device, or the process's context on it, is lost.
        out_of_memory: whether memory was lacking.
    """

    def __init__(self, call: str, name: str, text: str) -> None:
        self.name = name
        self.gone = name in _GONE
        self.out_of_memory = name == "cudaErrorMemoryAllocation"
        if self.gone:
            advice = (
                "the GPU is lost to this process: see 'nvidia-smi' and the kernel's log, and start the process anew"
            )
        elif self.out_of_memory:
            advice = "load fewer models, use a smaller batch, or fewer contexts"
        else:
            advice = "'edgebig doctor' shows the driver"
        super().__init__(f"CUDA's {call} failed with {name} ({text}): {advice}")


class Cuda:
    """The calls, on one device."""

    def __init__(self, runtime: Any, device: int = 0) -> None:
        """Takes the module ``cuda.bindings.runtime``, and looks for the device.

        Raises:
            BackendError: there is no driver or no such device.
        """
        self._rt = runtime
        self._sizes: dict[int, int] = {}
        self.device = device
        kinds = runtime.cudaMemcpyKind
        self._in, self._out = kinds.cudaMemcpyHostToDevice, kinds.cudaMemcpyDeviceToHost
        self._capture_mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        # the calls of every run, looked up once
        self._launch, self._synchronize = runtime.cudaGraphLaunch, runtime.cudaStreamSynchronize
        self._copy = runtime.cudaMemcpyAsync
        try:
            count = int(self._checked("cudaGetDeviceCount", runtime.cudaGetDeviceCount()))
        except CudaError as error:
            raise BackendError(f"CUDA finds no GPU ({error.name}): 'nvidia-smi' shows driver and GPU") from error
        except (RuntimeError, OSError) as error:  # cuda-python 12 where libcuda.so is missing
            raise BackendError(f"CUDA's driver does not load ({error}): install NVIDIA's driver") from error
        if not 0 <= device < count:
            raise BackendError(f"there is no GPU {device}: CUDA finds {count}, counted from 0")
        self._several = count > 1

    # --- the device ---

    def capability(self) -> str:
        """The device's compute capability, ``8.9``."""
        kinds = self._rt.cudaDeviceAttr
        major, minor = (
            self._checked("cudaDeviceGetAttribute", self._rt.cudaDeviceGetAttribute(kind, self.device))
            for kind in (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
        )
        return f"{int(major)}.{int(minor)}"

    def driver(self) -> str:
        """The newest CUDA that the driver serves, ``CUDA 12.6``."""
        version = int(self._checked("cudaDriverGetVersion", self._rt.cudaDriverGetVersion()))
        return f"CUDA {version // 1000}.{version % 1000 // 10}"

    # --- the current device, which belongs to the calling thread ---

    def enter(self) -> int | None:
        """Makes the device the calling thread's; returns the one to give back to :meth:`leave`, if another was."""
        if not self._several:
            return None
        before = int(self._checked("cudaGetDevice", self._rt.cudaGetDevice()))
        if before == self.device:
            return None
        self._checked("cudaSetDevice", self._rt.cudaSetDevice(self.device))
        return before

    def leave(self, before: int | None) -> None:
        """Undoes :meth:`enter`."""
        if before is not None:
            self._rt.cudaSetDevice(before)

    def synchronize_device(self) -> None:
        """Waits until all work on the device is done, on whichever stream."""
        self._checked("cudaDeviceSynchronize", self._rt.cudaDeviceSynchronize())

    # --- memory ---

    def malloc(self, size: int) -> int:
        """The address of ``size`` bytes on the device, aligned to 256 bytes."""
        address = int(self._checked("cudaMalloc", self._rt.cudaMalloc(size)))
        self._sizes[address] = size
        return address

    def free(self, address: int) -> None:
        """Frees what :meth:`malloc` gave. Waits for the device where work on it might still use the memory."""
        self._sizes.pop(address, None)
        self._checked("cudaFree", self._rt.cudaFree(address))

    def allocated(self) -> int:
        """Bytes of device memory that :meth:`malloc` gave and that were not freed."""
        return sum(self._sizes.copy().values())

    def host_alloc(self, size: int) -> int:
        """The address of ``size`` bytes of pinned host memory."""
        flags = self._rt.cudaHostAllocPortable
        return int(self._checked("cudaHostAlloc", self._rt.cudaHostAlloc(size, flags)))

    def host_free(self, address: int) -> None:
        """Frees what :meth:`host_alloc` gave."""
        self._checked("cudaFreeHost", self._rt.cudaFreeHost(address))

    def copy_in(self, to: int, source: int, size: int, stream: Stream) -> None:
        """Queues a copy of ``size`` bytes from pinned host memory to the device."""
        if (error := self._copy(to, source, size, self._in, stream)[0]) != 0:
            raise self._error("cudaMemcpyAsync", error)

    def copy_out(self, to: int, source: int, size: int, stream: Stream) -> None:
        """Queues a copy of ``size`` bytes from the device to pinned host memory."""
        if (error := self._copy(to, source, size, self._out, stream)[0]) != 0:
            raise self._error("cudaMemcpyAsync", error)

    def device_of(self, address: int) -> int:
        """The number of the GPU whose memory the address lies in."""
        found = self._checked("cudaPointerGetAttributes", self._rt.cudaPointerGetAttributes(address))
        return int(found.device)

    def fetch(self, to: int, source: int, size: int) -> None:
        """Copies ``size`` bytes from the device to any host memory; done when it returns."""
        self._checked("cudaMemcpy", self._rt.cudaMemcpy(to, source, size, self._out))

    # --- streams ---

    def stream_create(self) -> Stream:
        """A stream that does not wait for the default one."""
        made = self._rt.cudaStreamCreateWithFlags(self._rt.cudaStreamNonBlocking)
        return self._checked("cudaStreamCreateWithFlags", made)

    def stream_destroy(self, stream: Stream) -> None:
        """Destroys a stream."""
        self._checked("cudaStreamDestroy", self._rt.cudaStreamDestroy(stream))

    def synchronize(self, stream: Stream) -> None:
        """Waits until all work queued on the stream is done."""
        if (error := self._synchronize(stream)[0]) != 0:
            raise self._error("cudaStreamSynchronize", error)

    # --- graphs ---

    def begin_capture(self, stream: Stream) -> None:
        """From now on this thread's work on the stream is recorded, not done; other threads go on as before."""
        self._checked("cudaStreamBeginCapture", self._rt.cudaStreamBeginCapture(stream, self._capture_mode))

    def end_capture(self, stream: Stream) -> Any:
        """The recorded graph."""
        return self._checked("cudaStreamEndCapture", self._rt.cudaStreamEndCapture(stream))

    def abandon_capture(self, stream: Stream) -> None:
        """Ends a recording that failed, and forgets the error that it left."""
        error, graph = self._rt.cudaStreamEndCapture(stream)
        if error == 0 and graph is not None:
            self._rt.cudaGraphDestroy(graph)
        self._rt.cudaGetLastError()

    def instantiate(self, graph: Any) -> Any:
        """The graph, ready to be launched."""
        return self._checked("cudaGraphInstantiate", self._rt.cudaGraphInstantiate(graph, 0))

    def graph_destroy(self, graph: Any) -> None:
        """Destroys a recorded graph."""
        self._checked("cudaGraphDestroy", self._rt.cudaGraphDestroy(graph))

    def executable_destroy(self, executable: Any) -> None:
        """Destroys what :meth:`instantiate` gave."""
        self._checked("cudaGraphExecDestroy", self._rt.cudaGraphExecDestroy(executable))

    def launch(self, executable: Any, stream: Stream) -> None:
        """Queues the work of a graph."""
        if (error := self._launch(executable, stream)[0]) != 0:
            raise self._error("cudaGraphLaunch", error)

    # --- errors ---

    def quietly(self, call: Callable[..., object], *args: Any) -> None:
        """Makes a call of this class while cleaning up, where an error changes nothing any more."""
        try:
            call(*args)
        except CudaError:
            self._rt.cudaGetLastError()

    def forget_error(self) -> None:
        """Clears the error that the last failed call left, so that the next call does not report it again."""
        self._rt.cudaGetLastError()

    def last_error(self) -> None:
        """Raises the error that a library's call on this device left, if any; it counts as told then.

        Raises:
            CudaError: with ``cudaGetLastError`` as the call.
        """
        self._checked("cudaGetLastError", self._rt.cudaGetLastError())

    def _checked(self, call: str, result: Any) -> Any:
        if result[0] != 0:
            raise self._error(call, result[0])
        return result[1] if len(result) > 1 else None

    def _error(self, call: str, error: Any) -> CudaError:
        _, text = self._rt.cudaGetErrorString(error)
        words = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
        return CudaError(call, getattr(error, "name", str(error)), words)


def import_cuda() -> ModuleType:
    """The module ``cuda.bindings.runtime``.

    Raises:
        MissingExtra: cuda-python is not installed.
        BackendError: it is, but does not load.
    """
    try:
        from cuda.bindings import runtime
    except ModuleNotFoundError as error:
        raise MissingExtra("gpu", "cuda-python") from error
    except (ImportError, RuntimeError) as error:
        raise BackendError(f"cuda-python is installed but does not load: {error}") from error
    module: ModuleType = runtime
    return module
