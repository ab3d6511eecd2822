"""Profiles: the shapes that an engine is built for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebig.build import Knowledge, Profile, ProfileSet, derive_profiles
from edgebig.build.axes import Extent
from edgebig.errors import UsageError
from edgebig.recipe import ShapeRange
from edgebig.spec import Dim, TensorSpec


def spec(name: str, *shape: Dim) -> TensorSpec:
    return TensorSpec(name, "float32", shape)


def derived(inputs: list[TensorSpec], asked: dict[str, ShapeRange], axes: dict[str, Extent]) -> ProfileSet:
    (found,) = derive_profiles(inputs, [asked], Knowledge(axes))
    return found


def test_bytes_of_a_picture_are_a_picture() -> None:
    inputs = [TensorSpec("image", "uint8", ("batch", "height", "width", 3))]
    (found,) = derive_profiles(inputs)
    assert found["image"] == Profile((1, 32, 32, 3), (1, 224, 224, 3), (8, 640, 640, 3))


def test_only_inputs_with_dynamic_axes_get_one() -> None:
    found = derived([spec("a", 1, 3), spec("b", "batch", 3)], {}, {})
    assert found == {"b": Profile((1, 3), (1, 3), (8, 3))}


def test_what_was_asked_wins_and_holds_for_axes_of_that_name_elsewhere() -> None:
    inputs = [spec("ids", "batch", "seq"), spec("mask", "batch", "seq"), spec("other", "batch", 7)]
    asked = {"ids": ShapeRange(min=(1, 4), opt=(2, 16), max=(4, 32))}
    found = derived(inputs, asked, {"seq": (1, 128, 512), "batch": (1, 1, 8)})
    assert found["mask"] == found["ids"] == Profile((1, 4), (2, 16), (4, 32))
    assert found["other"] == Profile((1, 7), (2, 7), (4, 7))


def test_what_the_source_knows_comes_before_a_guess() -> None:
    inputs = [spec("x", "frames", "batch", "sequence_length", None)]
    assert derived(inputs, {}, {"frames": (3000, 3000, 3000)}) == {
        "x": Profile((3000, 1, 1, 1), (3000, 1, 128, 1), (3000, 8, 512, 16))
    }
    assert derived([spec("x", None, 4), spec("y", "N", 4)], {}, {})["y"] == Profile((1, 4), (1, 4), (8, 4))


@pytest.mark.parametrize(
    ("shape", "low", "best", "high"),
    [
        (("batch", 1, "depth", "height", "width"), (1, 1, 16, 16, 16), (1, 1, 64, 64, 64), (8, 1, 128, 128, 128)),
        ((None, None, None, None, 4), (1, 16, 16, 16, 4), (1, 64, 64, 64, 4), (8, 128, 128, 128, 4)),
        (("N", "C", "D", "H", "W"), (1, 1, 16, 16, 16), (1, 1, 64, 64, 64), (8, 16, 128, 128, 128)),
        (("batch", 3, "t", "h", "w"), (1, 3, 1, 32, 32), (1, 3, 16, 224, 224), (8, 3, 32, 640, 640)),
        (("b", "t", 3, "h", "w"), (1, 1, 3, 32, 32), (1, 16, 3, 224, 224), (8, 32, 3, 640, 640)),
        (("batch", "t", "h", "w", 3), (1, 1, 32, 32, 3), (1, 16, 224, 224, 3), (8, 32, 640, 640, 3)),
        (("batch", "p", "q", "r", "s"), (1,) * 5, (1,) * 5, (8, 16, 16, 16, 16)),
    ],
)
def test_volumes_and_films(
    shape: tuple[Dim, ...], low: tuple[int, ...], best: tuple[int, ...], high: tuple[int, ...]
) -> None:
    assert derived([spec("x", *shape)], {}, {})["x"] == Profile(low, best, high)


@pytest.mark.parametrize(
    ("name", "shape", "low", "best", "high"),
    [
        ("feats", ("T", "N", 80), (1, 1, 80), (128, 1, 80), (512, 8, 80)),
        ("feats", ("batch", "n_frames", 80), (1, 1, 80), (1, 128, 80), (8, 512, 80)),
        ("audio_signal", ("batch", 80, "time"), (1, 80, 1), (1, 80, 128), (8, 80, 512)),
        ("audio", ("batch", "time"), (1, 1600), (1, 16000), (8, 320000)),
        ("audio", ("batch", 1, "time"), (1, 1, 1600), (1, 1, 16000), (8, 1, 320000)),
        ("points", ("batch", "n"), (1, 1), (1, 1), (8, 16)),
        ("pictures", ("t", 3, "h", "w"), (1, 3, 32, 32), (1, 3, 224, 224), (16, 3, 640, 640)),
    ],
)
def test_time_is_told_from_batches_samples_and_pictures(
    name: str, shape: tuple[Dim, ...], low: tuple[int, ...], best: tuple[int, ...], high: tuple[int, ...]
) -> None:
    assert derived([spec(name, *shape)], {}, {})[name] == Profile(low, best, high)


@pytest.mark.parametrize(
    ("expression", "extent"),
    [
        ("past + 1", (1, 64, 128)),
        ("past + new", (2, 72, 159)),
        ("2*past - 0", (0, 126, 254)),
        ("past//2 + 5", (5, 36, 68)),
    ],
)
def test_an_axis_named_by_an_expression_follows(expression: str, extent: tuple[int, int, int]) -> None:
    known = {"past": (0, 63, 127), "new": (2, 9, 32)}
    profile = derived([spec("mask", expression)], {}, known)["mask"]
    assert (profile.min[0], profile.opt[0], profile.max[0]) == extent


@given(st.text(max_size=25).filter(lambda s: s not in {"n", "b", "N", "B"}))
def test_any_other_name_is_guessed_and_nothing_is_run(name: str) -> None:
    profile = derived([spec("x", 1, name)], {}, {"past": (1, 2, 3)})["x"]
    assert 0 <= profile.min[1] <= profile.opt[1] <= profile.max[1]


@pytest.mark.parametrize(
    "name", ["__import__('os').getpid()", "past + unknown", "past ** 9", "past // 0", "past +", "-past"]
)
def test_names_that_only_look_like_expressions_are_guessed(name: str) -> None:
    assert derived([spec("x", 1, name)], {}, {"past": (1, 2, 3)})["x"] == Profile((1, 1), (1, 1), (1, 16))


def test_an_asked_shape_of_another_rank_is_refused() -> None:
    asked = {"x": ShapeRange(min=(1, 2, 3), opt=(1, 2, 3), max=(1, 2, 3))}
    with pytest.raises(UsageError, match=r"shapes: x: float32 batchx3 has 2 axes, found 3"):
        derived([spec("x", "batch", 3)], asked, {})


def test_two_asked_sizes_for_one_axis_are_refused() -> None:
    asked = {n: ShapeRange(min=(1,), opt=(k,), max=(k,)) for n, k in (("x", 2), ("y", 3))}
    with pytest.raises(UsageError, match=r"the axis batch has one range, found \(1, 2, 2\) and \(1, 3, 3\) \(in y\)"):
        derived([spec("x", "batch"), spec("y", "batch")], asked, {})


def test_the_manifest_holds_lists() -> None:
    assert Profile((1, 2), (1, 3), (4, 5)).to_json() == {"min": [1, 2], "opt": [1, 3], "max": [4, 5]}
