"""Preflight: plain words on what runs here, without loading anything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from edgebig.bundle import Bundle, Engine
from edgebig.compatibility import Machine
from edgebig.device.history import History
from edgebig.device.preflight import machine_line, preflight, this_build

OTHER = (
    "model: the bundle was compiled for l4 (sm_89): 'edgebig finish' builds for this GPU with --any-device alone; "
    "compile for this device if you can"
)
UNKNOWN = "model: time to build: unknown (nothing was built on this device yet)"
THOR = Machine(tensorrt="11.4.1", capability="11.0", device="NVIDIA Jetson AGX Thor Developer Kit", is_jetson=True)


@pytest.fixture(autouse=True)
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBIG_ENGINES", str(tmp_path / "engines"))


def bundle_with(path: Path, *engines: Engine, **sizes: int) -> Bundle:
    bundle = tiny.write_bundle(path, {"model": tiny.mlp()}, target=tiny.L4_TARGET)
    part = replace(bundle.part(), engines=engines, sizes=sizes)
    return Bundle(bundle.path, replace(bundle.manifest, parts={"model": part}))


def test_an_engine_of_another_machine(tmp_path: Path) -> None:
    found = preflight(bundle_with(tmp_path / "b", Engine("e", "tensorrt", "10.3.0", ("8.7",))), "model", THOR)
    assert found.fitting is None and found.builder == "tensorrt"
    assert found.lines("b.bundle") == [
        "model: built for TensorRT 10.3 on sm_87; this machine has 11.4 on sm_110: run 'edgebig finish b.bundle'",
        OTHER,
        UNKNOWN,
    ]


def test_where_nothing_can_be_built_it_says_what_can_be_done(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "b", Engine("e", "tensorrt", "10.3.0", ("8.9",)))
    assert preflight(bundle, "model", Machine(tensorrt="10.3.0")).lines("b.bundle") == [
        "model: built for TensorRT 10.3 on sm_89; this machine has no GPU that the driver shows: "
        "run 'edgebig finish b.bundle' on the device"
    ]
    assert preflight(bundle, "model", Machine(capability="8.9")).lines("b.bundle") == [
        "model: built for TensorRT 10.3 on sm_89; this machine has no TensorRT: install TensorRT (a Jetson's JetPack "
        "brings it, docs/jetson.md)"
    ]


def test_the_plans_own_header_counts_where_the_manifest_says_another_version(tmp_path: Path) -> None:
    """The first 28 bytes of a plan: the tag ``ftrt``, 0, and at byte 24 the version."""
    engine = Engine("e", "tensorrt", "11.4.1", ("11.0",))
    bundle = bundle_with(tmp_path / "b", engine)
    (bundle.path / "e").write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 30]) + b"the rest")
    found = preflight(bundle, "model", THOR)
    assert found.fitting is None
    assert found.refused == ("built for TensorRT 10.3 on sm_110; this machine has 11.4 on sm_110",)
    (bundle.path / "e").write_bytes(b"ftrt" + bytes(20) + bytes([11, 4, 1, 9]) + b"the rest")
    assert preflight(bundle, "model", THOR).fitting == engine
    (bundle.path / "e").write_bytes(b"vtrt" + bytes(20) + bytes([11, 4, 1, 9]) + b"the rest")
    assert preflight(bundle, "model", THOR).lines("b")[0] == (
        "model: e is an engine of tensorrt-rtx, the manifest says tensorrt: copy the bundle anew"
    )


def test_no_engine_yet_with_estimates(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path / "b", weight_bytes=100_000_000, activation_bytes=20_000_000, nodes=100)
    found = preflight(bundle, "model", THOR)
    assert found.memory_bytes == 120_000_000 + (500 << 20)
    assert found.seconds is None
    assert found.lines("b.bundle") == [
        "model: no engine yet: run 'edgebig finish b.bundle'",
        OTHER,
        "model: about 644 MB of memory to run (an estimate)",
        UNKNOWN,
    ]


def test_an_earlier_build_is_the_better_estimate(tmp_path: Path) -> None:
    old = Engine("e", "tensorrt", "10.3.0", ("8.7",), built={"seconds": 431.5})
    found = preflight(bundle_with(tmp_path / "b", old, nodes=100), "model", THOR)
    assert (found.seconds, found.basis) == (431.5, "a build on the machine that compiled it")
    assert found.lines("b.bundle")[-1] == (
        "model: about 7 min to build (an estimate from a build on the machine that compiled it)"
    )


def test_what_this_device_took_is_the_best_estimate(tmp_path: Path) -> None:
    old = Engine("e", "tensorrt", "10.3.0", ("8.7",), built={"seconds": 431.5})
    bundle, history = bundle_with(tmp_path / "b", old, nodes=100), History(tmp_path / "builds.json")
    history.add(this_build(bundle, "model", THOR, "tensorrt", seconds=60.0))
    found = preflight(bundle, "model", THOR, history=history)
    assert (found.seconds, found.basis) == (60.0, "an earlier build here")
    larger = bundle_with(tmp_path / "c", nodes=300)
    graph = replace(this_build(bundle, "model", THOR, "tensorrt", seconds=20.0), graph="another")
    (tmp_path / "builds.json").unlink()
    history.add(graph)
    found = preflight(larger, "model", THOR, history=history)
    assert (found.seconds, found.basis) == (60.0, "what another model took here")
    other = preflight(larger, "model", replace(THOR, device="another board"), history=history)
    assert other.seconds is None


def test_an_engine_counts_only_on_the_dla_core_that_is_asked_for(tmp_path: Path) -> None:
    plain = Engine("e", "tensorrt", "11.4.1", ("11.0",))
    found = preflight(bundle_with(tmp_path / "b", plain), "model", THOR, dla=0)
    assert found.fitting is None and found.lines("b")[0] == "model: no engine yet: run 'edgebig finish b'"


def test_an_engine_that_runs_here(tmp_path: Path) -> None:
    fits = Engine("e", "tensorrt", "11.4.1", ("11.0",), built={"device": "another Thor"})
    found = preflight(bundle_with(tmp_path / "b", fits), "model", THOR)
    assert found.fitting == fits and found.refused == ()
    first, note = found.lines("b.bundle")
    assert first == "model: e runs here"
    assert note.startswith("model: built on another Thor, this is NVIDIA Jetson AGX Thor")


def test_the_machine_in_a_line() -> None:
    assert machine_line(THOR) == "NVIDIA Jetson AGX Thor Developer Kit (sm_110), TensorRT 11.4"
    assert machine_line(Machine()) == "no GPU, no TensorRT"
