"""What one thread runs an ONNX Runtime session on: I/O bindings, and memory on the device that is used again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from edgebig.errors import MissingExtra
from edgebig.runtime.gpu.arrays import DeviceArray, Release, take_array
from edgebig.runtime.gpu.cuda import Cuda
from edgebig.runtime.gpu.dlpack import CPU, CUDA, Memory
from edgebig.spec import TensorSpec

Array = np.ndarray[Any, Any]


class OrtLane:
    """I/O bindings of one session, one after the other. One thread uses it at a time.

    Inputs in main memory are copied into memory of the device that is kept for the next run of that shape; inputs on
    the device are bound where they are. Outputs are new memory in each run, except in a fixed lane.
    """

    def __init__(
        self, onnxruntime: Any, session: Any, outputs: Sequence[TensorSpec], place: tuple[str, int], cuda: Cuda | None
    ) -> None:
        """Takes a session.

        Args:
            onnxruntime: the module.
            session: its ``InferenceSession``.
            outputs: all outputs of the session.
            place: ONNX Runtime's name of the device's kind, and its number.
            cuda: the device's calls, without which no arrays on it are taken.
        """
        self._value, self._session = onnxruntime.OrtValue, session
        self._place, self._cuda = place, cuda
        self._dtypes = {spec.name: spec.dtype for spec in outputs}
        self._binding = session.io_binding()
        self._held: dict[str, tuple[tuple[int, ...], Any]] = {}
        self._options: Any = None
        self._stream: Any = None

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[Array]:
        """The named outputs, in new arrays."""
        releases = self._bind_inputs(feeds)
        try:
            self._bind_outputs(outputs, "cpu", 0)
            self._session.run_with_iobinding(self._binding, self._options)
            found: list[Array] = self._binding.copy_outputs_to_cpu()
            return found
        finally:
            self._let_go(releases)

    def run_on_device(self, outputs: Sequence[str], feeds: Mapping[str, Any]) -> list[DeviceArray]:
        """The named outputs, on the device."""
        releases = self._bind_inputs(feeds)
        try:
            self._bind_outputs(outputs, *self._place)
            self._session.run_with_iobinding(self._binding, self._options)
            values = self._binding.get_outputs()
            return [self._array(name, value) for name, value in zip(outputs, values, strict=True)]
        finally:
            self._renew()
            self._let_go(releases)

    def without_graph(self, options: Any) -> None:
        """Runs with these ``RunOptions`` from now on, which keep ONNX Runtime from replaying a CUDA graph."""
        options.add_run_config_entry("gpu_graph_id", "-1")
        self._options = options

    def close(self) -> None:
        """Lets go of the device's memory."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._held.clear()
        if self._stream is not None and self._cuda is not None:
            self._cuda.quietly(self._cuda.stream_destroy, self._stream)
            self._stream = None

    def _bind_inputs(self, feeds: Mapping[str, Any]) -> list[Release]:
        releases: list[Release] = []
        try:
            waits = False
            for name, given in feeds.items():
                value = given
                if not isinstance(given, np.ndarray):
                    value, release = self._take(name, given)
                    waits = True
                    if release is not None:
                        releases.append(release)
                if isinstance(value, Memory):
                    self._held.pop(name, None)
                    kind, number = self._place
                    dtype = np.dtype(value.dtype)
                    self._binding.bind_input(name, kind, number, dtype, list(value.shape), value.address)
                else:
                    self._copy_in(name, value)
            if waits and self._stream is not None and self._cuda is not None:
                # ONNX Runtime's stream is its own: what the producers' streams still do must be done.
                self._cuda.synchronize(self._stream)
        except BaseException:
            self._let_go(releases)
            raise
        return releases

    def _renew(self) -> None:
        """Another binding, with the inputs of this one that are held: its outputs keep this one.

        In ONNX Runtime 1.23 (no more in 1.32) the values that a binding gives are its own slots: the next run on it
        frees what they hold, and puts its own there.
        """
        self._binding.clear_binding_inputs()
        self._binding = self._session.io_binding()
        for name, (_, value) in self._held.items():
            self._binding.bind_ortvalue_input(name, value)

    def _take(self, name: str, given: Any) -> tuple[Array | Memory, Release | None]:
        if self._cuda is None:
            raise MissingExtra("gpu", "cuda-python")
        if self._stream is None:
            self._stream = self._cuda.stream_create()
        return take_array(name, given, self._cuda, self._stream)

    def _copy_in(self, name: str, array: Array) -> None:
        held = self._held.get(name)
        if held is not None and held[0] == array.shape:
            value = held[1]
        else:
            value = self._value.ortvalue_from_shape_and_type(list(array.shape), array.dtype.type, *self._place)
            self._binding.bind_ortvalue_input(name, value)
            self._held[name] = array.shape, value
        value.update_inplace(np.ascontiguousarray(array).reshape(array.shape))

    def _bind_outputs(self, outputs: Sequence[str], kind: str, number: int) -> None:
        """Anew for each run: else it would write into the memory of the one before, at that one's shape."""
        self._binding.clear_binding_outputs()
        for name in outputs:
            self._binding.bind_output(name, kind, number)

    def _array(self, name: str, value: Any) -> DeviceArray:
        kind = CUDA if self._place[0] == "cuda" else CPU
        shape = tuple(int(size) for size in value.shape())
        memory = Memory(int(value.data_ptr()), shape, self._dtypes[name], kind, self._place[1])
        return DeviceArray(memory, (value, self._binding), value.numpy)

    def _let_go(self, releases: Sequence[Release]) -> None:
        for release in releases:
            release()


class FixedLane:
    """Memory on the device for inputs and outputs whose shapes are fixed: what a CUDA graph needs, for one thread."""

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        place: tuple[str, int],
    ) -> None:
        """Binds the memory. Every shape must be static."""
        self._session, self._binding = session, session.io_binding()

        def value(spec: TensorSpec) -> Any:
            made = onnxruntime.OrtValue.ortvalue_from_shape_and_type
            return made(list(spec.shape), np.dtype(spec.dtype).type, *place)

        self._inputs = {spec.name: value(spec) for spec in inputs}
        self._outputs = {spec.name: value(spec) for spec in outputs}
        for spec in inputs:
            self._inputs[spec.name].update_inplace(np.zeros(tuple(map(int, spec.shape)), spec.dtype))  # type: ignore[arg-type]
            self._binding.bind_ortvalue_input(spec.name, self._inputs[spec.name])
        for name, out in self._outputs.items():
            self._binding.bind_ortvalue_output(name, out)
        self._run: Callable[[Any], None] = session.run_with_iobinding

    def record(self) -> None:
        """Runs as often as ONNX Runtime needs to record the graph, which it does by itself, and once more."""
        for _ in range(3):
            self._run(self._binding)

    def run(self, outputs: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The named outputs, in new arrays."""
        for name, value in self._inputs.items():
            value.update_inplace(np.ascontiguousarray(feeds[name]))
        self._run(self._binding)
        return [self._outputs[name].numpy() for name in outputs]

    def close(self) -> None:
        """Lets go of the memory."""
        self._binding.clear_binding_inputs()
        self._binding.clear_binding_outputs()
        self._inputs.clear()
        self._outputs.clear()
