"""Rounds a weight so that the layer's output stays near, rather than the weight.

With fixed scales, the error of a layer ``y = x W`` over the rows that it reads is ``tr(Eᵀ H E)``, where ``E`` is what
rounding changed and ``H`` the sum of x xᵀ. Columns of W (output channels) do not influence each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from edgebig.quantize.formats import Format

Array = np.ndarray[Any, Any]
Method = Literal["nearest", "gptq", "adaround"]

DAMPING = 0.01
"""Of the mean of H's diagonal, added to it: what the samples did not show must not be traded away."""

_BLOCK = 128
_AT_ONCE = 1 << 22
"""Elements of a weight that are rounded together; about six float32 copies of them are alive."""


def round_matrix(
    weight: Array,
    scale: Array,
    fmt: Format,
    second: Array,
    method: Method,
    *,
    damping: float = DAMPING,
    sweeps: int = 4,
) -> Array:
    """The integers (or FP8 values) of a weight, in the format's dtype, ``[K, N]``.

    No column's error is larger than with rounding to nearest.

    Args:
        weight: float32 ``[K, N]``, K input channels.
        scale: float32, broadcasts to the weight's shape.
        fmt: a symmetric format.
        second: H, ``[K, K]``.
        method: ``nearest``; ``gptq``; or ``adaround``, which goes on from GPTQ's result.
        damping: see :data:`DAMPING`.
        sweeps: of ``adaround``, at most.
    """
    if method == "nearest":
        return fmt.quantize(weight, scale)
    scale = np.broadcast_to(scale, weight.shape)
    extra = _extra(second, damping)
    order = np.argsort(-np.diagonal(second), kind="stable")
    feedback = _feedback(second[np.ix_(order, order)], extra)
    plain = second.astype(np.float32)
    curvature = plain + np.diag(np.full(len(plain), extra, np.float32)) if method == "adaround" else None
    found = np.empty(weight.shape, fmt.dtype.numpy())
    for part in _columns(weight.shape):
        w, s = (np.ascontiguousarray(a[:, part], np.float32) for a in (weight, scale))
        start = fmt.quantize(w, s)
        least = local_error(w - start.astype(np.float32) * s, plain)
        for candidate in _candidates(w, s, fmt, order, feedback, start, curvature, sweeps):
            error = local_error(w - candidate.astype(np.float32) * s, plain)
            better = error < least
            start = np.where(better, candidate, start)
            least = np.where(better, error, least)
        found[:, part] = start
    return found


def shrunk(second: Array, rows: int) -> Array:
    """H as if K more rows had been seen whose channels do not go together, float64 ``[K, K]``.

    Of few rows, H shows correlations that other data does not have, and rounding would follow them: with 2000 tokens
    for the 1536 channels of MiniLM's second feed-forward product, GPTQ on H itself made the error on other text as
    large as rounding to nearest. This is the mean of an inverse Wishart posterior whose prior has H's diagonal and the
    weight of K rows (towards the diagonal shrink also Schaefer and Strimmer 2005, "A Shrinkage Approach to Large-Scale
    Covariance Matrix Estimation", target D). With many rows it is H. Where a few strong correlations are all there is,
    H itself would serve better.

    Args:
        second: H, ``[K, K]``.
        rows: of how many it is the sum.
    """
    share = rows / max(rows + len(second), 1)
    found: Array = second * share
    np.einsum("ii->i", found)[...] = np.diagonal(second)
    return found


def local_error(error: Array, second: Array) -> Array:
    """The diagonal of ``Eᵀ H E``, float64 ``[N]``: each column's squared error over all rows."""
    found: Array = np.einsum("kn,kn->n", error, second @ error, dtype=np.float64)
    return found


def gptq(weight: Array, scale: Array, fmt: Format, feedback: Array) -> Array:
    """Rounds row after row, and lets the later rows make up for what the earlier ones lost.

    Frantar et al. 2022, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    in the equal form of Chee et al. 2023, "QuIP: 2-Bit Quantization of Large Language Models With Guarantees",
    theorem 6: with ``H = M D Mᵀ``, M unit upper triangular, row k becomes ``Q(W_k + sum_{j<k} M_jk E_j)``.
    It needs one Cholesky factor and no inverse.

    Args:
        weight: float32 ``[K, N]``.
        scale: of the same shape; fixed, so that the order of rows may be any.
        fmt: the format.
        feedback: M, float32 ``[K, K]``.

    Returns:
        Values in the format's dtype.
    """
    error = np.zeros_like(weight)
    found = np.empty(weight.shape, fmt.dtype.numpy())
    for first in range(0, len(weight), _BLOCK):
        block = slice(first, min(first + _BLOCK, len(weight)))
        wanted = weight[block] + feedback[:first, block].T @ error[:first]
        for row in range(block.start, block.stop):
            inside = feedback[first:row, row] @ error[first:row]
            found[row] = fmt.quantize(wanted[row - first] + inside, scale[row])
            error[row] = weight[row] - found[row].astype(np.float32) * scale[row]
    return found


def descend(weight: Array, scale: Array, fmt: Format, second: Array, start: Array, sweeps: int) -> Array:
    """Coordinate descent on the local error: each value in turn goes to the best point of its grid.

    What AdaRound relaxes and trains (Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training
    Quantization", equation 11) is here solved one value at a time, exactly; no step makes a column worse,
    and where it ends no single change makes one better.

    Args:
        weight: float32 ``[K, N]``.
        scale: of the same shape.
        fmt: the format.
        second: H, float32 ``[K, K]``, with a positive diagonal.
        start: values in the format's dtype.
        sweeps: over all rows, at most.
    """
    found = start.copy()
    error = weight - found.astype(np.float32) * scale
    for _ in range(sweeps):
        changed = False
        for first in range(0, len(weight), _BLOCK):
            block = slice(first, min(first + _BLOCK, len(weight)))
            inside = second[block, block]
            pull = second[block] @ error
            for row in range(block.start, block.stop):
                at = row - first
                wanted = weight[row] - error[row] + pull[at] / inside[at, at]
                values = fmt.quantize(wanted, scale[row])
                if (values == found[row]).all():
                    continue
                changed = True
                found[row] = values
                left = weight[row] - values.astype(np.float32) * scale[row]
                pull += inside[:, at, None] * (left - error[row])
                error[row] = left
        if not changed:
            break
    return found


def _candidates(
    weight: Array,
    scale: Array,
    fmt: Format,
    order: Array,
    feedback: Array,
    start: Array,
    curvature: Array | None,
    sweeps: int,
) -> Iterator[Array]:
    ordered = gptq(weight[order], scale[order], fmt, feedback)
    found = np.empty_like(ordered)
    found[order] = ordered
    yield found
    if curvature is not None:
        yield descend(weight, scale, fmt, curvature, found, sweeps)
        yield descend(weight, scale, fmt, curvature, start, sweeps)


def _extra(second: Array, damping: float) -> float:
    """What is added to H's diagonal, so that it is nowhere zero: weights of a dead input are rounded to nearest."""
    mean = float(np.diagonal(second).mean())
    return damping * mean if mean > 0 else 1.0


def _feedback(second: Array, extra: float) -> Array:
    """M of ``H + extra I = M D Mᵀ``, unit upper triangular, float32; the identity where no damping helps.

    ``second`` is changed. K² float64 numbers are needed about three times.
    """
    diagonal = np.einsum("ii->i", second)
    diagonal += extra
    step = max(extra, float(diagonal.mean()) * DAMPING)
    for _ in range(4):
        try:
            lower = np.linalg.cholesky(second[::-1, ::-1])
        except np.linalg.LinAlgError:
            diagonal += step
            step *= 10
        else:
            upper = lower[::-1, ::-1]
            found: Array = (upper / np.diagonal(upper)).astype(np.float32)
            return found
    return np.eye(len(second), dtype=np.float32)


def _columns(shape: tuple[int, ...]) -> Iterator[slice]:
    step = max(1, _AT_ONCE // max(shape[0], 1))
    for start in range(0, shape[1], step):
        yield slice(start, start + step)
