"""What a config tells of the sizes of a model's axes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgebig.source.axes import axes_of, fixed_shapes
from edgebig.spec import Dim, TensorSpec


def spec(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "int64", shape)


def config(**values: Any) -> Any:
    return SimpleNamespace(**values)


@pytest.mark.parametrize(
    ("values", "longest"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"max_position_embeddings": 512}, 512),
        # RoBERTa counts two positions that no token has
        ({"max_position_embeddings": 514}, 512),
        ({"max_position_embeddings": 130}, 128),
        ({"max_position_embeddings": 131072}, 512),
        ({"n_positions": 256}, 256),
        ({"max_target_positions": 448}, 448),
        ({"max_position_embeddings": None}, 512),
        ({"max_position_embeddings": -1, "n_positions": 32}, 32),
        ({}, 512),
    ],
)
def test_tokens_go_as_far_as_the_positions(values: dict[str, Any], longest: int) -> None:
    axes = axes_of([spec("input_ids", "batch_size", "sequence_length")], config(**values))
    assert axes == {"batch_size": (1, 1, 8), "sequence_length": (1, min(128, longest), longest)}


def test_a_cache_has_room_for_the_token_that_comes() -> None:
    inputs = [
        spec("input_ids", "batch_size", "sequence_length"),
        spec("attention_mask", "batch_size", "past_sequence_length + sequence_length"),
        spec("past_key_values.0.key", "batch_size", 2, "past_sequence_length", 8),
    ]
    axes = axes_of(inputs, config(max_position_embeddings=64))
    assert axes["past_sequence_length"] == (0, 31, 63)
    assert set(axes) == {"batch_size", "sequence_length", "past_sequence_length"}


def test_sound_is_counted_in_samples_and_whispers_frames_are_fixed() -> None:
    audio = axes_of([spec("input_values", "batch_size", "sequence_length")], config(max_position_embeddings=64))
    assert audio["sequence_length"] == (1600, 16000, 320000)
    hidden = [spec("encoder_hidden_states", "batch_size", "encoder_sequence_length", 32)]
    assert axes_of(hidden, config(max_source_positions=1500))["encoder_sequence_length"] == (1500, 1500, 1500)


def test_only_pictures_and_features_are_pinned() -> None:
    inputs = [
        spec("pixel_values", "batch_size", "num_channels", "height", "width"),
        spec("input_ids", "batch_size", "n"),
    ]
    example: dict[str, Any] = {
        "pixel_values": np.zeros((2, 3, 64, 96), np.float32),
        "input_ids": np.zeros((2, 16), np.int64),
    }
    assert fixed_shapes(inputs, example) == {"pixel_values": ("batch_size", 3, 64, 96)}
    assert fixed_shapes(inputs, {}) == {}
