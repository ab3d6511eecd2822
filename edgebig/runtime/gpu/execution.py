"""One execution context with its buffers: copies in, enqueue, copies out, as it is or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.errors import BackendError
from edgebig.runtime.gpu.allocator import DeviceBlock, output_allocator
from edgebig.runtime.gpu.buffers import Binding, byte_count, grown, host_view, numpy_dtype
from edgebig.runtime.gpu.cuda import Cuda, CudaError, Stream
from edgebig.runtime.gpu.engine import LoadedEngine
from edgebig.runtime.gpu.profiles import Shape

Array = np.ndarray[Any, Any]


class _Buffer:
    """Pinned host memory and device memory of one binding; a binding on the host has no device memory."""

    def __init__(self, cuda: Cuda, binding: Binding) -> None:
        self._cuda, self.binding = cuda, binding
        dtype = numpy_dtype(binding.dtype)
        assert dtype is not None  # LoadedEngine refuses the others
        self.dtype = dtype
        self.device = DeviceBlock(cuda)
        self.host, self._host_capacity = 0, 0
        self.shape: Shape = ()
        self.size = 0
        self.allocator: Any = None

    def set_shape(self, shape: Shape) -> None:
        """Makes room for an array of that shape."""
        self.shape, self.size = shape, byte_count(self.binding.dtype, shape)
        capacity = grown(self._host_capacity, max(self.size, 1))
        if capacity != self._host_capacity:
            self._free_host()
            self.host = self._cuda.host_alloc(capacity)
            self._host_capacity = capacity
        if not self.binding.on_host:
            self.device.reserve(self.size)

    @property
    def address(self) -> int:
        """Where the engine reads or writes it."""
        return self.host if self.binding.on_host else self.device.address

    def view(self) -> Array:
        """The pinned memory as an array."""
        return host_view(self.host, self.dtype, self.shape)

    def free(self) -> None:
        """Frees both memories."""
        self.device.free()
        self._free_host()

    def _free_host(self) -> None:
        if self.host:
            address, self.host, self._host_capacity = self.host, 0, 0
            self._cuda.quietly(self._cuda.host_free, address)


class Execution:
    """A context on a stream. One thread uses it at a time.

    Outputs whose shape the context does not know beforehand are written through an output allocator and fetched
    after the run; such a run can be no CUDA graph, nor one with a tensor in host memory, whose value is read at
    enqueue.
    """

    def __init__(self, engine: LoadedEngine, cuda: Cuda, stream: Stream) -> None:
        """Makes the context.

        Raises:
            BackendError: there is not enough memory.
        """
        self._engine, self._cuda, self._stream = engine, cuda, stream
        self._handle = int(stream)
        self._context: Any = engine.new_context()
        buffers = [_Buffer(cuda, binding) for binding in engine.bindings]
        self._inputs = [buffer for buffer in buffers if buffer.binding.is_input]
        self._outputs = {buffer.binding.name: buffer for buffer in buffers if not buffer.binding.is_input}
        self._reads_values = any(buffer.binding.on_host for buffer in self._inputs)
        self._shapes: tuple[Shape, ...] | None = None
        self._graph: Any = None
        self.profile = 0

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array], profile: int) -> list[Array]:
        """The named outputs for inputs that the profile takes, in arrays that nobody else holds.

        Raises:
            BackendError: CUDA or TensorRT failed.
        """
        shapes = tuple(feeds[buffer.binding.name].shape for buffer in self._inputs)
        if shapes != self._shapes or profile != self.profile or self._reads_values:
            self._set_shapes(shapes, profile, feeds)
        for buffer in self._inputs:
            np.copyto(buffer.view(), feeds[buffer.binding.name])
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronize(self._stream)
        return [self._taken(self._outputs[name]) for name in outputs]

    @property
    def can_be_graph(self) -> bool:
        """Whether a run of the present shapes may be recorded."""
        buffers = [*self._inputs, *self._outputs.values()]
        return not any(b.binding.on_host or b.allocator is not None for b in buffers)

    def capture(self) -> bool:
        """Records a run of the present shapes, which must have run before, as a CUDA graph for all later runs.

        From then on the shapes must stay as they are: NVIDIA's guide allows no change of a context that a graph was
        recorded from. Whether it worked; where it did not, runs are enqueued one by one as before.
        """
        graph = None
        try:
            self._cuda.begin_capture(self._stream)
            try:
                self._enqueue()
            except BackendError as error:
                self._cuda.abandon_capture(self._stream)
                if isinstance(error, CudaError) and error.gone:
                    raise
                return False
            graph = self._cuda.end_capture(self._stream)
            self._graph = self._cuda.instantiate(graph)
        except CudaError as error:
            if error.gone:
                raise
            self._cuda.forget_error()
            return False
        finally:
            if graph is not None:
                self._cuda.quietly(self._cuda.graph_destroy, graph)
        return True

    def close(self) -> None:
        """Waits for work still queued, then frees the graph, the context, and the buffers that they use."""
        self._cuda.quietly(self._cuda.synchronize, self._stream)
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.quietly(self._cuda.executable_destroy, graph)
        self._context = None
        for buffer in [*self._inputs, *self._outputs.values()]:
            buffer.free()

    def _set_shapes(self, shapes: tuple[Shape, ...], profile: int, feeds: Mapping[str, Array]) -> None:
        self._shapes = None  # half set is not set
        context = self._context
        if profile != self.profile:
            self._must(context.set_optimization_profile_async(profile, self._handle), f"profile {profile}")
            self._cuda.synchronize(self._stream)
            self.profile = profile
        for buffer, shape in zip(self._inputs, shapes, strict=True):
            name = buffer.binding.name
            buffer.set_shape(shape)
            if buffer.binding.on_host:
                np.copyto(buffer.view(), feeds[name])  # the shapes of outputs may follow from it
            self._must(context.set_input_shape(name, shape), f"the shape of {name!r}")
            self._must(context.set_tensor_address(name, buffer.address), f"the address of {name!r}")
        for name, buffer in self._outputs.items():
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            if buffer.allocator is not None:
                continue
            if min(shape, default=0) < 0:
                buffer.allocator = output_allocator(self._engine.tensorrt, buffer.device)
                self._must(context.set_output_allocator(name, buffer.allocator), f"an allocator of {name!r}")
            else:
                buffer.set_shape(shape)
                self._must(context.set_tensor_address(name, buffer.address), f"the address of {name!r}")
        self._shapes = shapes

    def _enqueue(self) -> None:
        cuda, stream = self._cuda, self._stream
        for buffer in self._inputs:
            if buffer.size and not buffer.binding.on_host:
                cuda.copy_in(buffer.device.address, buffer.host, buffer.size, stream)
        for buffer in self._outputs.values():
            buffer.device.shape = buffer.device.failure = None
        if not self._context.execute_async_v3(self._handle):
            raise self._failure()
        for buffer in self._outputs.values():
            if buffer.size and buffer.allocator is None and not buffer.binding.on_host:
                cuda.copy_out(buffer.host, buffer.device.address, buffer.size, stream)

    def _taken(self, buffer: _Buffer) -> Array:
        if buffer.allocator is None:
            return buffer.view().copy()
        shape = buffer.device.shape
        if shape is None:
            raise BackendError(f"TensorRT told no shape of the output {buffer.binding.name!r} of {self._engine.name}")
        array = np.empty(shape, buffer.dtype)
        if array.nbytes:
            self._cuda.fetch(array.ctypes.data, buffer.device.address, array.nbytes)
        return array

    def _failure(self) -> BackendError:
        """Why the engine did not run: an allocator's error, CUDA's where the device is lost, or TensorRT's words."""
        for buffer in self._outputs.values():
            if buffer.device.failure is not None:
                return buffer.device.failure
        try:
            self._cuda.last_error()
        except CudaError as error:
            if error.gone or error.out_of_memory:
                return error
        return BackendError(f"TensorRT failed while running {self._engine.name}: {self._engine.last_error()}")

    def _must(self, done: bool, what: str) -> None:
        if not done:
            raise BackendError(f"TensorRT refuses {what} for {self._engine.name}: {self._engine.last_error()}")
