"""The quick yes to a manifest: never to one that the schema refuses, and to all that edgebig writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_schema import JSON, changed, places, whole
from tiny import mlp

import edgebig
from edgebig.bundle import Bundle
from edgebig.manifest import SCHEMA
from edgebig.quick_check import surely_fits
from edgebig.schema import load_schema, mismatch

SCHEMA_DATA = load_schema(SCHEMA)
VALUES: list[Any] = [
    *(None, True, False, 0, 1, 2, 7, -1, 2.0, 1.5, -0.5, 1e308, 10**400, float("inf"), float("nan")),
    *("", "x", "a b", "é", "host", "auto", "NaN", "Infinity", "float32", "int3", "uint2", "manifest.json", "a/b.c"),
    *("/a", "a//b", "a/", "./a", "a/.", "..", "a/../b", "a/...", "a\\b", "a\nb", "a\n", "\x7f", "a\u00a0b", "\ud800"),
    *("0" * 64, "0" * 63, "0" * 65, "A" * 64, "g" + "0" * 63, "0" * 30 + "g" + "0" * 33, "0" * 64 + "\n"),
    *("2026-01-31T23:59:59", "2026-01-31 23:59:59", "2026-01-31T23:59:5", "2026-01-31T23:59:59+00:00"),
    "٢٠٢٦-01-31T23:59:59",
    *([], [0], [-1], [None], ["x"], [""], [True], [1.5], [[]], [{}], {}, {"x": 1}, {"x": -1}, {"\0": 1}, {"x": None}),
]
UNPRINTABLE = {"a\u00a0b", "\ud800"}
"""What only a close look lets pass as a path."""


def check(data: Any) -> bool:
    """The quick answer, held against the schema's."""
    quick = surely_fits(data)
    assert not quick or mismatch(data, SCHEMA_DATA) is None
    return quick


@pytest.mark.parametrize("at", list(places(whole())), ids=lambda at: ".".join(map(str, at)) or "it")
def test_it_says_what_the_schema_says_of_every_value_in_every_place(at: tuple[Any, ...]) -> None:
    verdicts = set()
    for value in VALUES:
        data = changed(whole(), at, value)
        quick = check(data)
        verdicts.add(quick)
        if not (isinstance(value, str) and value in UNPRINTABLE):
            assert quick == (mismatch(data, SCHEMA_DATA) is None), value
    assert False in verdicts


@pytest.mark.parametrize("at", list(places(whole())), ids=lambda at: ".".join(map(str, at)) or "it")
def test_it_says_what_the_schema_says_where_a_field_is_missing_or_added(at: tuple[Any, ...]) -> None:
    inner = whole()
    for key in at:
        inner = inner[key]
    for key in list(inner) if isinstance(inner, dict) else []:
        less = copy.deepcopy(inner)
        del less[key]
        data = changed(whole(), at, less)
        assert check(data) == (mismatch(data, SCHEMA_DATA) is None)
    if isinstance(inner, dict):
        for key in ("colour", "../x", "a\\b", "manifest.json", "x/y"):
            for value in (1, "red", {"bytes": 1, "sha256": "0" * 64}):
                data = changed(whole(), (*at, key), value)
                assert check(data) == (mismatch(data, SCHEMA_DATA) is None)


@given(at=st.sampled_from(list(places(whole()))), value=JSON)
def test_it_never_says_yes_to_what_the_schema_refuses(at: tuple[Any, ...], value: Any) -> None:
    check(changed(whole(), at, value))


@given(text=st.text(st.sampled_from("ab./\\\0\x7f\n"), max_size=6))
def test_it_reads_names_of_parts_as_the_schema_does(text: str) -> None:
    data = whole()
    data["parts"] = {text: data["parts"]["model"]}
    assert check(data) == (mismatch(data, SCHEMA_DATA) is None)


@given(text=st.text(st.sampled_from("ab./\\\0\x7f"), max_size=6))
def test_it_reads_paths_as_the_schema_does(text: str) -> None:
    data = changed(whole(), ("parts", "model", "graph"), text)
    assert check(data) == (mismatch(data, SCHEMA_DATA) is None)


def test_it_says_yes_to_what_edgebig_writes_and_the_schema_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(mlp(), tmp_path / "m.onnx")
    samples = [{"x": np.full((1, 8), i, np.float32)} for i in range(16)]
    for precision in ("fp32", "int8"):
        out = tmp_path / precision
        edgebig.compile(tmp_path / "m.onnx", target="cpu", precision=precision, calibration=samples, out=out)
        assert surely_fits(json.loads((out / "manifest.json").read_text(encoding="utf-8")))

        def unread(*_: object) -> None:
            raise AssertionError("the schema was read")

        with monkeypatch.context() as patched:
            patched.setattr("edgebig.manifest.mismatch", unread)
            assert list(Bundle.open(out).manifest.parts) == ["model"]


def test_what_only_a_closer_look_lets_pass_passes(tmp_path: Path) -> None:
    data = changed(whole(), ("parts", "model", "golden"), "evidence/a\u00a0b.npz")
    data["files"]["evidence/a\u00a0b.npz"] = {"bytes": 1, "sha256": "0" * 64}
    assert not surely_fits(data)
    (tmp_path / "manifest.json").write_text(json.dumps(data), encoding="utf-8")
    assert Bundle.open(tmp_path).part().golden == "evidence/a\u00a0b.npz"
