"""Binding: buffers made once, so that a call neither allocates nor copies what the engine need not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import perf_counter_ns
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from edgebig.errors import BackendError, InputError, UsageError
from edgebig.runtime.backend import Array, Backend, Binds, Bound
from edgebig.runtime.checks import InputCheck, no_dtype
from edgebig.runtime.shapes import Shape, output_shape
from edgebig.spec import TensorSpec

if TYPE_CHECKING:
    from edgebig.runtime.core import Core, Loaded


class Binding:
    """Input and output arrays tied to a session's engine. Made by :meth:`Session.bind`; one thread uses it at a time.

        binding = session.bind()
        binding.inputs["x"][...] = frame
        binding.run()
        use(binding.outputs["y"])

    An output whose shape follows from those of the inputs has one array, which every run overwrites: copy what shall
    last. One whose shape depends on the data (``NonZero``, ``NonMaxSuppression``), or has an axis that no input names,
    is a new array after each run, allocated by the engine.

    Attributes:
        inputs: the arrays to write into, by name: ``binding.inputs["x"][...] = frame``. They begin as zeros.
        outputs: the arrays of the latest run, by name.
    """

    def __init__(
        self,
        core: Core,
        shapes: Mapping[str, Shape],
        outputs: Sequence[str],
        buffers: Mapping[str, Array],
        owner: object,
    ) -> None:
        """Makes the arrays; :meth:`Session.bind` has worked out the shapes and checked the names, and is kept alive.

        Raises:
            BackendError: the engine takes no such shapes.
            InputError: NumPy lacks a type, or a buffer does not fit its input or output.
            UsageError: there are ``buffers``, and the engine computes from memory of its own kind; or one is for no
                input and no output.
        """
        self._core, self._owner = core, owner
        self._busy = self._closed = False
        self._step: Callable[[], Sequence[Array]]
        self._bound: Bound
        loaded = core.usable()
        backend = loaded.backend
        make = backend.buffer if isinstance(backend, Binds) else _zeros
        if buffers and isinstance(backend, Binds) and not getattr(backend, "takes_any_buffer", False):
            raise UsageError("this engine binds memory of its own kind: copy into binding.inputs instead")
        specs = {spec.name: spec for spec in loaded.outputs}
        _check_buffers(buffers, loaded.inputs, [specs[name] for name in outputs], shapes)
        self._inputs = {
            spec.name: buffers[spec.name] if spec.name in buffers else make(shapes[spec.name], _dtype(spec))
            for spec in loaded.inputs
        }
        self._outputs: dict[str, Array | None] = {}
        for name in outputs:
            shape = output_shape(specs[name], loaded.inputs, shapes) if specs[name].is_numpy else None
            given = buffers.get(name)
            if shape is None or (given is not None and given.shape != shape):
                self._outputs[name] = None
            else:
                self._outputs[name] = make(shape, specs[name].dtype) if given is None else given
        # Before the first run an output without a buffer is an empty array.
        self._found = {n: np.zeros(0, np.float32) if array is None else array for n, array in self._outputs.items()}
        self.inputs: Mapping[str, Array] = MappingProxyType(self._inputs)
        self.outputs: Mapping[str, Array] = MappingProxyType(self._found)
        self._tie(loaded)

    def run(self) -> Mapping[str, Array]:
        """Computes from what :attr:`inputs` hold now.

        Returns:
            :attr:`outputs`.

        Raises:
            BackendError: the engine failed, the session is closed, or it was reloaded with a bundle that takes or gives
                something else.
            InputError: an input is not finite, and the session was loaded with ``check_finite``.
            UsageError: another thread is using this binding.
        """
        core = self._core
        # A flag, as a lock costs as much as all else here. From CPython 3.11 on no thread can come between the two
        # lines; in 3.10 one might, and a mistake in the caller then goes unseen once.
        if self._busy:
            core.usable()  # the thread may have been left behind by a fork
            raise UsageError("this binding runs in another thread: make one for each thread with session.bind()")
        self._busy = True
        try:
            if core.direct is self._loaded:
                start = perf_counter_ns()
                try:
                    made = self._step()
                except BackendError as error:
                    made = core.call(self._again_after(error))
                except InputError:
                    core.recorder.failed()
                    raise
                else:
                    recorder = core.recorder
                    recorder.next()
                    recorder.add(perf_counter_ns() - start)
            else:
                made = core.call(self._aside)
            if made:
                self._found.update(zip(self._free, made, strict=True))
        finally:
            self._busy = False
        return self.outputs

    def close(self) -> None:
        """Lets go of the engine; the arrays stay as they are. It runs no more."""
        self._closed = True
        self._step = self._refuse
        self._bound.close()

    def __reduce__(self) -> str:
        raise UsageError("a binding cannot be copied or pickled: make another one with session.bind()")

    def _refuse(self) -> Sequence[Array]:
        raise BackendError("the binding is closed: make another one with session.bind()")

    def _aside(self, loaded: Loaded) -> Sequence[Array]:
        """A run that is not plain: the session was reloaded, is traced, or shares its device."""
        if loaded is not self._loaded:
            self._refuse_misfit(loaded)
            self._bound.close()
            self._tie(loaded)
        try:
            return self._step()
        except BackendError as error:
            return self._again_after(error)(loaded)

    def _tie(self, loaded: Loaded) -> None:
        if self._closed:
            self._refuse()
        backend = loaded.backend
        if isinstance(backend, Binds):
            self._bound = backend.bind(self._inputs, self._outputs)
        else:
            self._bound = CopiedBuffers(backend, self._inputs, self._outputs)
        self._free = [name for name, array in self._outputs.items() if array is None]
        self._step = self._checked if loaded.check.check_finite else self._bound.run
        self._loaded = loaded

    def _checked(self) -> Sequence[Array]:
        """A run of a session that refuses what is not finite."""
        self._loaded.check(self._inputs)
        return self._bound.run()

    def _refuse_misfit(self, loaded: Loaded) -> None:
        """After a reload with ``allow_changes`` the buffers may be of other dtypes and shapes than the model's."""
        try:
            InputCheck(loaded.inputs)(self._inputs)
            loaded.asked(list(self._outputs) or None)
            for spec in loaded.outputs:
                buffer = self._outputs.get(spec.name)
                if buffer is not None and (not spec.is_numpy or buffer.dtype != np.dtype(spec.dtype)):
                    raise InputError(f"output {spec.name!r} is {spec.dtype}, and was {buffer.dtype}")
        except InputError as error:
            raise BackendError(
                f"the session was reloaded and this binding does not fit any more: {error}: "
                "make another one with session.bind()"
            ) from error

    def _again_after(self, error: BackendError) -> Callable[[Loaded], Sequence[Array]]:
        """A second try: on the engine that was loaded meanwhile; or without the buffers that may be of a wrong shape.

        Those are the ones whose shapes only the graph's names of axes promise, which nothing checks.
        """

        def again(loaded: Loaded) -> Sequence[Array]:
            if loaded is not self._loaded:
                return self._aside(loaded)
            static = {spec.name for spec in loaded.outputs if spec.is_static}
            promised = {n: a for n, a in self._outputs.items() if a is not None and n not in static}
            if not promised:
                raise error
            self._outputs.update(dict.fromkeys(promised))
            try:
                self._bound.close()
                self._tie(loaded)
                made = dict(zip(self._free, self._step(), strict=True))
            except BackendError:  # it was something else
                self._outputs.update(promised)
                with suppress(BackendError):
                    self._tie(loaded)
                raise error from None
            return self._keep_buffers(loaded, promised, made)

        return again

    def _keep_buffers(self, loaded: Loaded, promised: dict[str, Array], made: dict[str, Array]) -> list[Array]:
        """Gives outputs their buffers back that do fit, and returns the others.

        Where all fit, the first failure was one that passes, and the caller may still hold the arrays.
        """
        fitting = {name: buffer for name, buffer in promised.items() if made[name].shape == buffer.shape}
        for name, buffer in fitting.items():
            np.copyto(buffer, made.pop(name), casting="no")
        if fitting:
            self._outputs.update(fitting)
            self._bound.close()
            self._tie(loaded)
        return list(made.values())


class CopiedBuffers:
    """Buffers for a backend that cannot bind: it runs as ever, and the outputs are copied into theirs."""

    def __init__(self, backend: Backend, inputs: Mapping[str, Array], outputs: Mapping[str, Array | None]) -> None:
        self._backend = backend
        self._feeds, self._outputs = dict(inputs), dict(outputs)

    def run(self) -> Sequence[Array]:
        """Computes; returns the outputs that have no buffer.

        Raises:
            BackendError: the engine failed, or an output does not fit its buffer.
        """
        made = []
        found = self._backend.run(list(self._outputs), self._feeds)
        for (name, buffer), array in zip(self._outputs.items(), found, strict=True):
            if buffer is None:
                made.append(array)
            elif buffer.shape != array.shape:
                raise BackendError(f"the output {name!r} is {array.shape}, its buffer {buffer.shape}: bind it anew")
            else:
                np.copyto(buffer, array, casting="no")
        return made

    def close(self) -> None:
        """Nothing is held."""


def _dtype(spec: TensorSpec) -> str:
    if not spec.is_numpy:
        raise no_dtype(spec)
    return spec.dtype


def _zeros(shape: Shape, dtype: str) -> Array:
    return np.zeros(shape, dtype)


def _check_buffers(
    buffers: Mapping[str, Array],
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    shapes: Mapping[str, Shape],
) -> None:
    """Refuses what an engine would copy, so that it were read once and never written, or would read as something else.

    An output's shape is not looked at: where it is another one than the model's, the output gets an array of its own.
    """
    if not isinstance(buffers, Mapping):
        raise UsageError(f"buffers must be a dict of arrays by input or output, found {type(buffers).__name__}")
    specs = {spec.name: spec for spec in (*outputs, *inputs)}
    unknown = [str(name) for name in buffers if name not in specs]
    if unknown:
        raise UsageError(
            f"buffers names {unknown[0]!r}, which is neither an input nor an output asked for: it may name "
            + ", ".join(specs)
        )
    read = {spec.name for spec in inputs}
    written = {spec.name for spec in outputs}
    for name, array in buffers.items():
        wrong = _misfit(array, specs[name], shapes[name] if name in read else None, name in written)
        if wrong:
            raise InputError(f"the buffer of {specs[name]} must be {wrong}")


def _misfit(array: Array, spec: TensorSpec, shape: Shape | None, is_written: bool) -> str:
    """What the array had to be and is not, in words; empty where it fits."""
    if not isinstance(array, np.ndarray):
        return f"a NumPy array, found {type(array).__name__}"
    if not spec.is_numpy or array.dtype != np.dtype(spec.dtype):
        return f"of that type, found {array.dtype}"
    if shape is not None and array.shape != shape:
        return f"of the shape {shape}, found {array.shape}: give it in shapes"
    if not array.flags.c_contiguous or not array.flags.aligned:
        return "contiguous, in C order and aligned: np.ascontiguousarray(array) makes such a copy"
    if is_written and not array.flags.writeable:
        return "writeable, found a read-only one"
    return ""
