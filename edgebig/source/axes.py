"""What a Hugging Face config tells of the sizes that a model's axes may have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgebig.source.source import Extent, Sample
from edgebig.spec import Dim, TensorSpec

_TOKENS = 512
_CONTEXT = 4096
"""Tokens, where there is a cache, that are prepared for unless more are asked for."""
_BEST_TOKENS = 128
_BATCH: Extent = (1, 1, 8)
_AUDIO: Extent = (1600, 16000, 320000)
"""Samples of sound: a tenth of a second, one and twenty seconds at 16 kHz."""

_RAW_AUDIO = {"input_values"}
_PINNED = {"pixel_values", "pixel_mask", "input_features"}


def axes_of(inputs: Sequence[TensorSpec], config: Any) -> dict[str, Extent]:
    """Smallest, best and largest size of each named axis of the inputs."""
    longest = positions_of(config) or _TOKENS
    has_cache = any(isinstance(dim, str) and dim.startswith("past_") for spec in inputs for dim in spec.shape)
    limit = min(longest, _CONTEXT if has_cache else _TOKENS)
    # a text leaves room for what is written after it
    tokens = (1, min(_BEST_TOKENS, max(limit // 2, 1) if has_cache else limit), limit)
    read = min(longest, _TOKENS)
    axes: dict[str, Extent] = {}
    frames = getattr(config, "max_source_positions", None)
    if isinstance(frames, int):
        # Whisper's encoder gives this many frames, never fewer
        axes["encoder_sequence_length"] = (frames, frames, frames)
    for spec in inputs:
        for dim in spec.shape:
            if not isinstance(dim, str) or not dim.isidentifier():
                continue
            if "batch" in dim:
                axes[dim] = _BATCH
            elif spec.name in _RAW_AUDIO:
                axes[dim] = _AUDIO
            elif dim.startswith("past_"):
                # an empty cache starts a text, and there is room for the token that is added
                axes.setdefault(dim, (0, max(min(tokens[1] - 1, limit // 2), 1), max(limit - 1, 1)))
            elif dim not in axes:
                axes[dim] = (1, min(_BEST_TOKENS, read), read) if dim.startswith("encoder_") else tokens
    return axes


def fixed_shapes(inputs: Sequence[TensorSpec], example: Sample) -> Mapping[str, tuple[Dim, ...]]:
    """Shapes of pictures and features: only the batch stays dynamic.

    Exporters leave height, width and channels open though the weights fix most of them; engines need
    to know them.
    """
    return {
        spec.name: (spec.shape[0], *example[spec.name].shape[1:])
        for spec in inputs
        if spec.name in _PINNED and spec.name in example
    }


def positions_of(config: Any) -> int | None:
    """The largest number of tokens that the model's positions allow, those of a cache among them, where it says so."""
    for name in ("max_position_embeddings", "n_positions", "max_target_positions"):
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            # RoBERTa and its kin reserve two positions for padding
            return value - 2 if value % 2 == 0 and value % 128 == 2 else value
    return None
