"""Largest sizes that are made smaller until they fit."""

from __future__ import annotations

from collections.abc import Mapping

from edgebig.build.room import fit_to_room

ROLES: Mapping[str, str] = {"b": "batch", "s": "sequence", "p": "past"}
EXTENTS = {"b": (1, 1, 8), "s": (1, 128, 2048), "p": (0, 127, 2047)}


def test_what_fits_stays() -> None:
    assert fit_to_room(ROLES, EXTENTS, (), lambda sizes: True) == EXTENTS  # type: ignore[arg-type]


def test_batches_go_first_and_lengths_no_further_than_needed() -> None:
    found = fit_to_room(ROLES, EXTENTS, (), lambda n: n["b"] * n["s"] <= 4096)  # type: ignore[arg-type]
    assert found == {"b": (1, 1, 2), "s": (1, 128, 2048), "p": (0, 127, 2047)}
    found = fit_to_room(ROLES, EXTENTS, (), lambda n: n["b"] * (n["s"] + n["p"]) <= 1100)  # type: ignore[arg-type]
    assert found == {"b": (1, 1, 1), "s": (1, 128, 512), "p": (0, 127, 511)}


def test_what_was_asked_stays_and_the_best_sizes_are_the_least() -> None:
    found = fit_to_room(ROLES, EXTENTS, {"b"}, lambda sizes: False)  # type: ignore[arg-type]
    assert found == {"b": (1, 1, 8), "s": (1, 128, 128), "p": (0, 127, 127)}
