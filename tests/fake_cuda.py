"""A ``cuda.bindings.runtime`` whose device is this process's memory: it keeps a record of calls and of what lives.

Names and parameters are those of the real module; ``tests/runtime/test_fakes.py`` compares them
where it is installed.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaDeviceAttr(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


OK = cudaError_t.cudaSuccess


class FakeCuda:
    """The module. ``fail[name] = error`` makes every call of that name fail until it is taken out.

    Attributes:
        calls: names of calls in order.
        live: what was made and not freed: memory, streams, graphs, each by its handle.
        problems: uses of freed things, and frees of what is not there.
    """

    cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode = cudaError_t, cudaMemcpyKind, cudaStreamCaptureMode
    cudaDeviceAttr = cudaDeviceAttr
    cudaHostAllocPortable = 1
    cudaStreamNonBlocking = 1

    def __init__(self, devices: int = 1) -> None:
        self.calls: list[str] = []
        self.live: dict[int, tuple[str, Any]] = {}
        self.problems: list[str] = []
        self.fail: dict[str, cudaError_t] = {}
        self.recording: dict[int, list[Callable[[], None]]] = {}
        self.current = 0
        self.capability = (8, 9)
        self.device_of: dict[int, int] = {}
        self._devices, self._next, self._error = devices, 1, OK

    def _call(self, name: str) -> cudaError_t:
        self.calls.append(name)
        error = self.fail.get(name, OK)
        if error:
            self._error = error
        return error

    def _make(self, kind: str, thing: Any = None) -> int:
        handle = self._next
        if isinstance(thing, ctypes.Array):
            handle = ctypes.addressof(thing)
        self._next += 1
        self.live[handle] = (kind, thing)
        return handle

    def _free(self, kind: str, handle: int) -> None:
        if self.live.get(handle, ("",))[0] != kind:
            self.problems.append(f"{kind} {handle} freed, which is not there")
        self.live.pop(handle, None)

    def _made(self, name: str, kind: str, thing: Any = None) -> tuple[Any, ...]:
        error = self._call(name)
        return (error, None) if error else (OK, self._make(kind, thing))

    def _freed(self, name: str, kind: str, handle: int) -> tuple[cudaError_t]:
        self._free(kind, handle)
        return (self._call(name),)

    def do(self, stream: int, work: Callable[[], None]) -> None:
        """Queues work: done at once, or recorded."""
        if self.live.get(stream, ("",))[0] != "stream":
            self.problems.append("work on a stream that is not there")
        self.recording[stream].append(work) if stream in self.recording else work()

    def must_live(self, address: int, kind: str) -> None:
        """Notes a problem where memory in use is not there."""
        if self.live.get(address, ("",))[0] != kind:
            self.problems.append(f"{kind} memory {address} used, which is not there")

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        error = self._call("cudaGetDeviceCount")
        return (error, None) if error else (OK, self._devices)

    def cudaDeviceGetAttribute(self, attr: cudaDeviceAttr, device: int) -> tuple[Any, ...]:
        error = self._call("cudaDeviceGetAttribute")
        return error, self.capability[attr - cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor]

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return OK, 13010

    def cudaGetDevice(self) -> tuple[Any, ...]:
        return OK, self.current

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self.current = device
        return (self._call("cudaSetDevice"),)

    def cudaDeviceSynchronize(self) -> tuple[Any, ...]:
        return (self._call("cudaDeviceSynchronize"),)

    def cudaPointerGetAttributes(self, ptr: int) -> tuple[Any, ...]:
        return OK, SimpleNamespace(device=self.device_of.get(ptr, 0))

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._made("cudaMalloc", "device", (ctypes.c_uint8 * size)())

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:
        return self._freed("cudaFree", "device", devPtr)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        return self._made("cudaHostAlloc", "host", (ctypes.c_uint8 * size)())

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        return self._freed("cudaFreeHost", "host", ptr)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: int, stream: int) -> tuple[Any, ...]:
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice

        def work() -> None:
            self.must_live(dst, "device" if to_device else "host")
            self.must_live(src, "host" if to_device else "device")
            ctypes.memmove(dst, src, count)

        error = self._call("cudaMemcpyAsync")
        if not error:
            self.do(stream, work)
        return (error,)

    def cudaMemcpy(self, dst: int, src: int, count: int, kind: int) -> tuple[Any, ...]:
        error = self._call("cudaMemcpy")
        self.must_live(src, "device")
        if not error:
            ctypes.memmove(dst, src, count)
        return (error,)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        return self._made("cudaStreamCreateWithFlags", "stream")

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        return self._freed("cudaStreamDestroy", "stream", stream)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        return (self._call("cudaStreamSynchronize"),)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Any, ...]:
        error = self._call("cudaStreamBeginCapture")
        if not error:
            self.recording[stream] = []
        return (error,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        return self._made("cudaStreamEndCapture", "graph", self.recording.pop(stream))

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[Any, ...]:
        return self._made("cudaGraphInstantiate", "executable", self.live[graph][1])

    def cudaGraphDestroy(self, graph: int) -> tuple[Any, ...]:
        return self._freed("cudaGraphDestroy", "graph", graph)

    def cudaGraphExecDestroy(self, graphExec: int) -> tuple[Any, ...]:
        return self._freed("cudaGraphExecDestroy", "executable", graphExec)

    def cudaGraphLaunch(self, graphExec: int, stream: int) -> tuple[Any, ...]:
        error = self._call("cudaGraphLaunch")
        if not error:
            for work in self.live[graphExec][1]:
                work()
        return (error,)

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[Any, ...]:
        return OK, b"as asked"

    def cudaGetLastError(self) -> tuple[Any, ...]:
        error, self._error = self._error, OK
        return (error,)
