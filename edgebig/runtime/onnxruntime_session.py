"""ONNX Runtime's session past the Python class around it, which checks at every run what is checked already.

The class opens the graph and is kept: without it ONNX Runtime's memory lay otherwise, and a segmentation network held
70 MB more in every second process. What lies within is no public interface, so a version of ONNX Runtime that has
another is used by the class.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from edgebig.sessions import open_session


class NativeSession:
    """The part of ``onnxruntime.InferenceSession`` that a backend needs, of the same names."""

    def __init__(self, onnxruntime: Any, session: Any, public: Any) -> None:
        """Takes the module, the session as its C++ code made it, and the class around that, which is kept."""
        self._public = public
        self._new_binding = onnxruntime.IOBinding
        self._sess = session
        self.run = session.run
        self.run_native_binding = session.run_with_iobinding  # takes what an ``IOBinding`` wraps

    def get_inputs(self) -> list[Any]:
        """What it says of each input: ``NodeArg``."""
        found: list[Any] = self._sess.inputs_meta
        return found

    def get_outputs(self) -> list[Any]:
        """What it says of each output: ``NodeArg``."""
        found: list[Any] = self._sess.outputs_meta
        return found

    def get_providers(self) -> list[str]:
        """Names of the execution providers; ``IOBinding`` asks."""
        found: list[str] = self._sess.get_providers()
        return found

    def io_binding(self) -> Any:
        """A new ``onnxruntime.IOBinding``, which looks at nothing but what this class has."""
        return self._new_binding(self)


def open_on_cpu(onnxruntime: Any, graph: str, options: Any, disabled: Iterable[str]) -> Any:
    """Opens a graph on ONNX Runtime's CPU provider.

    Args:
        onnxruntime: the module.
        graph: path of the ONNX file.
        options: its ``SessionOptions``.
        disabled: names of optimizers that stay off.

    Returns:
        A :class:`NativeSession`, or an ``onnxruntime.InferenceSession`` where this version is made otherwise.

    Raises:
        Exception: ONNX Runtime refuses the graph; its errors have no other base in common.
    """
    public = open_session(onnxruntime, graph, options, providers=["CPUExecutionProvider"], without=disabled)
    try:
        return NativeSession(onnxruntime, public._sess, public)
    except AttributeError:
        return public
