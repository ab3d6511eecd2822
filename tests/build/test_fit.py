"""Fitter: ranges at whose ends a graph computes."""

from __future__ import annotations

from edgebig.build.axes import GUESSES, Layout, Sizes
from edgebig.build.fit import Fitter
from edgebig.spec import TensorSpec

PICTURE = {"n": GUESSES["batch"], "h": GUESSES["side"], "w": GUESSES["side"]}
ROLES = Layout.of([TensorSpec("x", "float32", ("n", 3, "h", "w"))], PICTURE).roles


def test_roles_are_read_from_names_and_places() -> None:
    inputs = [
        TensorSpec("input_values", "float32", (None, None)),
        TensorSpec("input_ids", "int64", (None, "sequence_length")),
        TensorSpec("past_key_values.0.key", "float32", ("batch", 4, None, 8)),
        TensorSpec("mask", "int64", ("batch", "past + sequence_length")),
    ]
    roles = Layout.of(inputs, ["past"]).roles
    assert roles == {
        "input_values[0]": "batch",
        "input_values[1]": "sound",
        "input_ids[0]": "batch",
        "sequence_length": "sequence",
        "past_key_values.0.key[2]": "past",
        "batch": "batch",
    }
    assert ROLES == {"n": "batch", "h": "side", "w": "side"}


def test_a_guess_at_which_the_graph_computes_stays() -> None:
    tried: list[Sizes] = []
    assert Fitter(ROLES, lambda sizes: tried.append(sizes) or "").fit(PICTURE) == PICTURE
    assert len(tried) == 4  # best, smallest, largest, and the largest batch


def test_one_size_is_found_where_only_one_computes() -> None:
    found = Fitter(ROLES, lambda s: "" if s["h"] == s["w"] == 96 else "no").fit(PICTURE)
    assert found == {"n": (1, 1, 8), "h": (96, 96, 96), "w": (96, 96, 96)}


def test_ends_move_by_the_multiple_that_the_graph_demands() -> None:
    guess = {**PICTURE, "h": (30, 224, 650), "w": (30, 224, 650)}
    found = Fitter(ROLES, lambda s: "odd" if s["h"] % 32 or s["w"] % 32 else "").fit(guess)
    assert found is not None and found["h"] == found["w"] == (32, 224, 640)


def test_an_axis_that_is_the_sum_of_two_others_is_found() -> None:
    inputs = [
        TensorSpec("a", "float32", (1, "old", 8)),
        TensorSpec("b", "float32", (1, "new", 8)),
        TensorSpec("c", "float32", (1, "both")),
    ]
    roles = Layout.of(inputs).roles
    assert set(roles.values()) == {"other"}
    guess = dict.fromkeys(roles, GUESSES["other"])
    found = Fitter(roles, lambda s: "" if s["both"] == s["old"] + s["new"] else "no").fit(guess)
    assert found == {"old": (1, 1, 15), "new": (1, 1, 1), "both": (2, 2, 16)}


def test_the_shortest_input_is_found() -> None:
    guess = {"n": (1, 1, 8), "h": (1, 500, 1000), "w": (64, 64, 64)}
    found = Fitter(ROLES, lambda s: "" if s["h"] >= 400 else "too short").fit(guess)
    assert found is not None and found["h"] == (400, 500, 1000)


def test_a_range_that_was_asked_for_stays_or_nothing_is_found() -> None:
    found = Fitter(ROLES, lambda s: "" if s["h"] == s["w"] else "no", ["h"]).fit({**PICTURE, "h": (64, 64, 64)})
    assert found is not None and found["h"] == found["w"] == (64, 64, 64)
    assert Fitter(ROLES, lambda s: "" if s["h"] == 96 else "no", ["h"]).fit(PICTURE) is None


def test_the_number_of_trials_is_bounded() -> None:
    tried: list[Sizes] = []
    assert Fitter(ROLES, lambda sizes: tried.append(sizes) or "no", trials=17).fit(PICTURE) is None
    assert len(tried) == 17
