"""Opens graphs in ONNX Runtime, past a fault of some of its versions. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

_BROKEN = "SimplifiedLayerNormFusion"
"""Fails on RMS norms in FP16, where the processor computes in float32 between casts: seen in 1.23, no more in 1.32.
https://github.com/microsoft/onnxruntime/issues/26717."""

_ITS_MESSAGE = "InsertedPrecisionFreeCast"


def open_session(
    onnxruntime: Any, model: str | bytes, options: Any, *, providers: Sequence[Any], without: Iterable[str] = ()
) -> Any:
    """An ``InferenceSession``; without the fusion that fails, where it does.

    Args:
        onnxruntime: the module.
        model: the file's path, or the model itself.
        options: ``SessionOptions``.
        providers: as ``InferenceSession`` takes them.
        without: names of optimizers that are left out.

    Raises:
        Exception: as ``InferenceSession``: its errors have no common base but this.
    """
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers, disabled_optimizers=[*without])
    except Exception as error:
        if _ITS_MESSAGE not in str(error):
            raise
    left_out = [*without, _BROKEN]
    return onnxruntime.InferenceSession(model, options, providers=providers, disabled_optimizers=left_out)
