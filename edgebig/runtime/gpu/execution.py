"""One execution context with its buffers: copies in, enqueue, copies out, as it is or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.errors import BackendError
from edgebig.runtime.gpu.allocator import output_allocator
from edgebig.runtime.gpu.arrays import DeviceArray
from edgebig.runtime.gpu.blocks import Block, Blocks
from edgebig.runtime.gpu.buffer import Buffer
from edgebig.runtime.gpu.cuda import Cuda, CudaError, Stream
from edgebig.runtime.gpu.dlpack import CUDA, Memory
from edgebig.runtime.gpu.engine import LoadedEngine
from edgebig.runtime.gpu.profiler import layer_profiler
from edgebig.runtime.gpu.profiles import Shape
from edgebig.runtime.gpu.replay import Replay

Array = np.ndarray[Any, Any]
Feeds = Mapping[str, Array] | Mapping[str, Array | Memory]
"""Each input: an array in main memory, or memory on the device."""


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
        engine.count(1)
        buffers = [Buffer(cuda, binding) for binding in engine.bindings]
        self._inputs = [buffer for buffer in buffers if buffer.binding.is_input]
        self._outputs = {buffer.binding.name: buffer for buffer in buffers if not buffer.binding.is_input}
        self._reads_values = any(buffer.binding.on_host for buffer in self._inputs)
        self._shapes: tuple[Shape, ...] | None = None
        self._is_away = False
        self._bound: Mapping[str, Array | None] = {}
        self._graph: Any = None
        self._profiler: Any = None
        self.profile = 0

    def run(self, outputs: Sequence[str], feeds: Feeds, profile: int) -> list[Array]:
        """The named outputs for inputs that the profile takes, in arrays that nobody else holds.

        Raises:
            BackendError: CUDA or TensorRT failed.
        """
        self._give(feeds, profile)
        if self._is_away:
            self._bring_outputs_back()
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronize(self._stream)
        return [self._taken(self._outputs[name]) for name in outputs]

    def run_on_device(self, outputs: Sequence[str], feeds: Feeds, profile: int, blocks: Blocks) -> list[DeviceArray]:
        """As :meth:`run`, but the outputs stay in device memory, in blocks that nobody else holds. It is no graph.

        Raises:
            BackendError: CUDA or TensorRT failed.
        """
        self._give(feeds, profile)
        self._is_away = True
        made: dict[str, Block] = {}
        for name in outputs:
            buffer = self._outputs[name]
            if buffer.allocator is None and not buffer.binding.on_host:
                made[name] = blocks.take(max(buffer.size, 1))
                buffer.is_own = False
                self._point(buffer, made[name].address)
        self._enqueue()
        self._cuda.synchronize(self._stream)
        return [self._kept(self._outputs[name], made.get(name), blocks) for name in outputs]

    def bind(self, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None], profile: int) -> None:
        """Ties pinned arrays to the context; :meth:`run_bound` then reads and writes them.

        Raises:
            BackendError: CUDA or TensorRT failed.
        """
        for buffer in self._inputs:
            buffer.lend_host(inputs[buffer.binding.name])
        self._give(inputs, profile)
        for name, array in outputs.items():
            buffer = self._outputs[name]
            if array is None or buffer.allocator is not None:
                continue
            if buffer.shape == array.shape:  # else run_bound says so
                buffer.lend_host(array)
                self._point(buffer, buffer.room())
        self._bound = outputs

    def run_bound(self) -> list[Array]:
        """A run on the arrays that are bound; new arrays for the outputs that have none.

        Raises:
            BackendError: CUDA or TensorRT failed, or an output does not fit its array.
        """
        if self._graph is not None:
            self._cuda.launch(self._graph, self._stream)
        else:
            self._enqueue()
        self._cuda.synchronize(self._stream)
        made = []
        for name, array in self._bound.items():
            buffer = self._outputs[name]
            if array is None:
                made.append(self._taken(buffer))
            elif buffer.lent is not array:
                found = self._taken(buffer)
                if found.shape != array.shape:
                    raise BackendError(f"the output {name!r} is {found.shape}, its buffer {array.shape}: bind it anew")
                np.copyto(array, found)
        return made

    def layer_times(self, feeds: Feeds, profile: int) -> list[tuple[str, float]]:
        """Milliseconds of each layer in one run, in the engine's order, after one run that is not counted.

        Raises:
            BackendError: CUDA or TensorRT failed.
        """
        if self._profiler is None:
            self._profiler = layer_profiler(self._engine.tensorrt)
            self._context.profiler = self._profiler
        for _ in range(2):
            self._profiler.times.clear()
            self.run((), feeds, profile)
        return list(self._profiler.times)

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

    def replay(self) -> Replay | None:
        """The short way of its runs, once it is recorded for inputs in main memory."""
        if self._graph is None or not all(buffer.is_own for buffer in self._inputs):
            return None
        return Replay(self._cuda, self._stream, self._graph, self._inputs, self._outputs)

    def close(self) -> None:
        """Waits for work still queued, then frees the graph, the context, and the buffers that they use."""
        self._cuda.quietly(self._cuda.synchronize, self._stream)
        if self._graph is not None:
            graph, self._graph = self._graph, None
            self._cuda.quietly(self._cuda.executable_destroy, graph)
        if self._context is not None:
            self._context = None
            self._engine.count(-1)
        for buffer in [*self._inputs, *self._outputs.values()]:
            buffer.free()

    def _give(self, feeds: Feeds, profile: int) -> None:
        """Sets shapes where they are others than before, and puts or points the inputs where the engine reads them."""
        values = [feeds[buffer.binding.name] for buffer in self._inputs]
        shapes = tuple(value.shape for value in values)
        if shapes != self._shapes or profile != self.profile:
            self._set_shapes(shapes, profile)
        for buffer, value in zip(self._inputs, values, strict=True):
            if isinstance(value, Memory) and not buffer.binding.on_host and buffer.size:
                buffer.is_own = False
                self._point(buffer, value.address)
                continue
            address = buffer.room()
            if not isinstance(value, Memory):
                if value is not buffer.lent:
                    np.copyto(buffer.view(), value)
            elif buffer.size:
                self._cuda.synchronize(self._stream)  # which waits for the one who made it
                self._cuda.fetch(buffer.host, value.address, buffer.size)
            buffer.is_own = True
            self._point(buffer, address)
        if self._reads_values or self._shapes is None:
            self._size_outputs()  # their shapes may follow from values
        self._shapes = shapes

    def _set_shapes(self, shapes: tuple[Shape, ...], profile: int) -> None:
        self._shapes = None  # half set is not set
        context = self._context
        if profile != self.profile:
            self._must(context.set_optimization_profile_async(profile, self._handle), f"profile {profile}")
            self._cuda.synchronize(self._stream)
            self.profile = profile
        for buffer, shape in zip(self._inputs, shapes, strict=True):
            buffer.set_shape(shape)
            name = buffer.binding.name
            self._must(context.set_input_shape(name, shape), f"the shape of {name!r}")

    def _size_outputs(self) -> None:
        for name, buffer in self._outputs.items():
            shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
            if buffer.allocator is not None:
                continue
            if min(shape, default=0) < 0:
                buffer.allocator = output_allocator(self._engine.tensorrt, buffer.device)
                self._must(self._context.set_output_allocator(name, buffer.allocator), f"an allocator of {name!r}")
            else:
                buffer.set_shape(shape)
                self._point(buffer, buffer.room())

    def _point(self, buffer: Buffer, address: int) -> None:
        if address != buffer.pointed:
            buffer.pointed = None
            name = buffer.binding.name
            self._must(self._context.set_tensor_address(name, address), f"the address of {name!r}")
            buffer.pointed = address

    def _bring_outputs_back(self) -> None:
        for buffer in self._outputs.values():
            if buffer.allocator is None:
                buffer.is_own = True
                self._point(buffer, buffer.room())
        self._is_away = False

    def _enqueue(self) -> None:
        cuda, stream = self._cuda, self._stream
        for buffer in self._inputs:
            if buffer.is_own and buffer.size and not buffer.binding.on_host:
                cuda.copy_in(buffer.device.address, buffer.host, buffer.size, stream)
        for buffer in self._outputs.values():
            buffer.device.shape = buffer.device.failure = None
        if not self._context.execute_async_v3(self._handle):
            raise self._failure()
        for buffer in self._outputs.values():
            if buffer.is_own and buffer.size and buffer.allocator is None and not buffer.binding.on_host:
                cuda.copy_out(buffer.host, buffer.device.address, buffer.size, stream)

    def _taken(self, buffer: Buffer) -> Array:
        if buffer.allocator is None:
            return buffer.view().copy()
        array = np.empty(self._written(buffer), buffer.dtype)
        if array.nbytes:
            self._cuda.fetch(array.ctypes.data, buffer.device.address, array.nbytes)
        return array

    def _written(self, buffer: Buffer) -> Shape:
        """The shape that the engine wrote of an output whose size it knew only then."""
        shape = buffer.device.shape
        if shape is None:
            raise BackendError(f"TensorRT told no shape of the output {buffer.binding.name!r} of {self._engine.name}")
        return shape

    def _kept(self, buffer: Buffer, block: Block | None, blocks: Blocks) -> DeviceArray:
        """An output on the device, over its block; one that an allocator wrote takes that memory along."""
        shape = buffer.shape
        if buffer.allocator is not None:
            shape = self._written(buffer)
            block = blocks.adopt(*buffer.device.give_away())
        elif block is None:  # the engine writes it in host memory
            block = blocks.take(max(buffer.size, 1))
            if buffer.size:
                self._cuda.copy_in(block.address, buffer.host, buffer.size, self._stream)
                self._cuda.synchronize(self._stream)
        memory = Memory(block.address, shape, buffer.dtype.name, CUDA, self._cuda.device)
        cuda, dtype = self._cuda, buffer.dtype

        def fetch() -> Array:
            array = np.empty(shape, dtype)
            if array.nbytes:
                before = cuda.enter()
                try:
                    cuda.fetch(array.ctypes.data, memory.address, array.nbytes)
                finally:
                    cuda.leave(before)
            return array

        return DeviceArray(memory, block, fetch)

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
