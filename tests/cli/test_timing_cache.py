"""``edgebig timing-cache``: what it prints, for people and for programs."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Run

from edgebig.build.timing_cache import TimingKey, write_timing

KEY = TimingKey("tensorrt", "10.3.0", "Jetson AGX Orin, 8.7", "dla")


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines" / "timing"


def test_a_cache_is_listed_exported_cleared_and_imported(edgebig: Run, engines: Path, tmp_path: Path) -> None:
    assert edgebig("timing-cache", "list").out.startswith(f"no timing cache in {engines}: 'edgebig finish' makes one")
    write_timing(engines / KEY.file_name(), KEY, b"kernels")
    head, row = edgebig("timing-cache", "list").out.splitlines()
    assert head.split() == ["name", "TensorRT", "device", "flags", "size"]
    assert row.split() == [
        KEY.file_name().removesuffix(".timing"),
        "10.3.0",
        "Jetson",
        "AGX",
        "Orin,",
        "8.7",
        "dla",
        "7",
        "B",
    ]
    file = tmp_path / "fleet.timing"
    assert (
        edgebig("timing-cache", "export", file).out == f"{file}: TensorRT 10.3.0 on Jetson AGX Orin, 8.7 (dla), 7 B\n"
    )
    assert edgebig("timing-cache", "clear", "--all").out == "1 timing cache removed\n"
    assert edgebig("timing-cache", "list", "--json").json == {"folder": str(engines), "caches": []}
    taken = edgebig("timing-cache", "import", file)
    assert taken.code == 0 and taken.out.startswith("taken in: TensorRT 10.3.0 on Jetson AGX Orin, 8.7 (dla), 7 B")
    (cache,) = edgebig("timing-cache", "list", "--json").json["caches"]
    assert cache["key"] == {
        "flavour": "tensorrt",
        "version": "10.3.0",
        "device": "Jetson AGX Orin, 8.7",
        "flags": "dla",
    }


def test_what_goes_wrong_is_one_line(edgebig: Run, tmp_path: Path) -> None:
    for arguments, says in (
        (("clear",), "name the caches to remove"),
        (("clear", "x", "--all"), "name the caches to remove"),
        (("clear", "x"), "no timing cache is called x"),
        (("export", tmp_path / "x"), "TensorRT-RTX times nothing"),
        (("import", tmp_path / "x"), "cannot read the timing cache"),
        (("merge",), "No such command 'merge'"),
    ):
        result = edgebig("timing-cache", *arguments)
        assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
        assert says in result.err
