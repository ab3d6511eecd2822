"""Phases of text generation: which sets of shapes a graph gets."""

from __future__ import annotations

from collections.abc import Sequence

from edgebig.build import Knowledge, Profile, ProfileSet, derive_profiles
from edgebig.recipe import ShapeRange
from edgebig.spec import TensorSpec

AXES = {"batch": (1, 1, 8), "sequence": (1, 128, 1024), "past": (0, 127, 1023)}
DECODER = [
    TensorSpec("input_ids", "int64", ("batch", "sequence")),
    TensorSpec("attention_mask", "int64", ("batch", "past + sequence")),
    TensorSpec("past_key_values.0.key", "float32", ("batch", 2, "past", 8)),
]
CONTINUES = [
    TensorSpec("input_ids", "int64", ("batch", "sequence")),
    TensorSpec("past_key_values.0.decoder.key", "float32", ("batch", 2, "past", 8)),
    TensorSpec("past_key_values.0.encoder.key", "float32", ("batch", 2, "frames", 8)),
]


def derived(inputs: Sequence[TensorSpec], positions: int | None = None, **asked: ShapeRange) -> tuple[ProfileSet, ...]:
    return derive_profiles(inputs, [asked], Knowledge(AXES, positions))


def test_a_decoder_with_a_cache_gets_prefill_and_decode() -> None:
    prefill, decode = derived(DECODER, positions=1024)
    assert prefill == {
        "input_ids": Profile((1, 1), (1, 128), (8, 1024)),
        "attention_mask": Profile((1, 1), (1, 128), (8, 1024)),
        "past_key_values.0.key": Profile((1, 2, 0, 8), (1, 2, 0, 8), (8, 2, 0, 8)),
    }
    assert decode == {
        "input_ids": Profile((1, 1), (1, 1), (8, 1)),
        "attention_mask": Profile((1, 2), (1, 128), (8, 1024)),
        "past_key_values.0.key": Profile((1, 2, 1, 8), (1, 2, 127, 8), (8, 2, 1023, 8)),
    }


def test_a_prompt_may_follow_a_cache_as_far_as_the_positions_reach() -> None:
    for positions, room in ((1500, 476), (4096, 1023), (None, 1023)):
        prefill, decode = derived(DECODER, positions)
        assert prefill["past_key_values.0.key"].max == (8, 2, room, 8)
        assert prefill["attention_mask"].max == (8, 1024 + room)
        assert decode["past_key_values.0.key"].max == (8, 2, 1023, 8)


def test_a_graph_that_goes_on_from_another_ones_cache_decodes_alone() -> None:
    (decode,) = derived(CONTINUES, 1024)
    assert decode["input_ids"] == Profile((1, 1), (1, 1), (8, 1))
    assert decode["past_key_values.0.decoder.key"] == Profile((1, 2, 1, 8), (1, 2, 127, 8), (8, 2, 1023, 8))


def test_one_token_at_a_time_may_begin_with_an_empty_cache() -> None:
    one_token = [TensorSpec("input_ids", "int64", ("batch", 1)), *DECODER[2:]]
    (decode,) = derived(one_token)
    assert decode["past_key_values.0.key"] == Profile((1, 2, 0, 8), (1, 2, 127, 8), (8, 2, 1023, 8))


def test_without_a_cache_there_is_one_set() -> None:
    (whole,) = derived(DECODER[:1], 1024)
    assert whole == {"input_ids": Profile((1, 1), (1, 128), (8, 1024))}


def test_prompts_of_an_asked_length_still_have_a_step() -> None:
    asked = ShapeRange(min=(1, 1), opt=(1, 16), max=(2, 64))
    prefill, decode = derived(DECODER, 1024, input_ids=asked)
    assert prefill["input_ids"] == Profile(asked.min, asked.opt, asked.max)
    assert prefill["past_key_values.0.key"].max == (2, 2, 960, 8)
    assert decode["input_ids"] == Profile((1, 1), (1, 1), (2, 1))


def test_asked_caches_and_fixed_prompts_are_one_set() -> None:
    cache = ShapeRange(min=(1, 2, 0, 8), opt=(1, 2, 8, 8), max=(1, 2, 16, 8))
    (one,) = derived(DECODER, 1024, **{"past_key_values.0.key": cache})
    assert one["past_key_values.0.key"].opt == (1, 2, 8, 8) and one["input_ids"].max == (1, 1024)
    (fixed,) = derived(DECODER, 1024, input_ids=ShapeRange(min=(1, 16), opt=(1, 16), max=(1, 16)))
    assert fixed["input_ids"].min == (1, 16)


def test_each_asked_set_is_one_and_equal_ones_are_one() -> None:
    asked = [
        {"input_ids": ShapeRange(min=(1, n), opt=(1, n), max=(1, n)), "past_key_values.0.key": cache}
        for n, cache in (
            (32, ShapeRange(min=(1, 2, 0, 8), opt=(1, 2, 0, 8), max=(1, 2, 0, 8))),
            (1, ShapeRange(min=(1, 2, 1, 8), opt=(1, 2, 32, 8), max=(1, 2, 64, 8))),
        )
    ]
    prompt, step = derive_profiles(DECODER, asked, Knowledge(AXES))
    assert prompt["attention_mask"] == Profile((1, 32), (1, 32), (1, 32))
    assert step["attention_mask"] == Profile((1, 2), (1, 33), (1, 65))
    assert derive_profiles(DECODER, [*asked, asked[1]], Knowledge(AXES)) == (prompt, step)


def test_where_a_phase_does_not_compute_there_is_one_set() -> None:
    def no_empty_cache(shapes: dict[str, tuple[int, ...]]) -> str:
        return "" if shapes["past_key_values.0.key"][2] == 5 and shapes["input_ids"][1] == 3 else "no"

    known = Knowledge(AXES, trial=no_empty_cache, example={"input_ids": (1, 3), "past_key_values.0.key": (1, 2, 5, 8)})
    (one,) = derive_profiles(DECODER, (), known)
    assert one["input_ids"] == Profile((1, 3), (1, 3), (8, 3))
    assert one["past_key_values.0.key"] == Profile((1, 2, 5, 8), (1, 2, 5, 8), (8, 2, 5, 8))
