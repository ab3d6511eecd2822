"""Which engine runs where: each rule from both sides."""

from __future__ import annotations

from typing import Any

import pytest

from edgebig.compatibility import Machine, engine_fits, engine_notes, lean_runtime
from edgebig.manifest import Engine


def engine(version: str = "10.3.0", hardware: str = "8.7", kind: str = "tensorrt", **more: Any) -> Engine:
    return Engine("e", kind, version, tuple(hardware.split()), **more)


def machine(version: str = "10.3.0", capability: str | None = "8.7", **more: Any) -> Machine:
    return Machine(tensorrt=version, capability=capability, **more)


def test_a_mismatch_is_told_in_plain_words() -> None:
    assert engine_fits(engine(), machine("11.4.1", "11.0")) == (
        "built for TensorRT 10.3 on sm_87; this machine has 11.4 on sm_110"
    )
    assert engine_fits(engine(), Machine(capability="8.7")).endswith("this machine has no TensorRT")
    assert engine_fits(engine(), machine(capability=None)).endswith("no GPU that the driver shows")
    assert engine_fits(engine("10.3.0.26"), machine("10.3.0.30")) == (
        "built for TensorRT 10.3.0.26 on sm_87; this machine has 10.3.0.30 on sm_87"
    )


@pytest.mark.parametrize(
    ("built", "here", "compatible", "runs"),
    [
        ("10.3.0", "10.3.0", False, True),
        ("10.3.0.30", "10.3.0", False, True),
        ("10.3.0", "10.3.1", False, False),
        ("10.3.0", "10.13.3", False, False),
        ("10.3.0", "10.13.3", True, True),
        ("10.13.3", "10.3.0", True, False),
        ("10.16.1", "11.4.1", True, True),
        ("11.0.0", "11.4.1", True, True),
        ("11.4.1", "10.16.1", True, False),
        ("8.6.1", "10.3.0", True, True),
        ("8.6.1", "11.4.1", True, False),
    ],
)
def test_versions(built: str, here: str, compatible: bool, runs: bool) -> None:
    built_so, has_lean = (
        engine(built, version_compatible=compatible),
        machine(here, lean_runtime="libnvinfer_lean.so.10"),
    )
    assert (engine_fits(built_so, has_lean) == "") is runs


def test_a_version_compatible_engine_needs_the_lean_runtime_of_its_version() -> None:
    compatible = engine("10.3.0.30", version_compatible=True)
    assert engine_fits(compatible, machine("10.3.0")) == ""
    assert engine_fits(compatible, machine("10.13.3")) == (
        "built for TensorRT 10.3 on sm_87; this machine has 10.13 on sm_87 and no lean runtime of 10.3.0.30"
    )
    assert engine_fits(compatible, machine("10.2.0")).endswith("this machine has 10.2 on sm_87")


def test_the_lean_runtime_is_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEBIG_LEAN_RUNTIME", raising=False)
    assert lean_runtime() == ""
    monkeypatch.setenv("EDGEBIG_LEAN_RUNTIME", "/opt/10.3/libnvinfer_lean.so.10")
    assert lean_runtime() == "/opt/10.3/libnvinfer_lean.so.10"


@pytest.mark.parametrize(
    ("built", "here", "level", "jetson", "runs"),
    [
        ("8.6", "8.6", False, False, True),
        ("8.6", "8.9", False, False, False),
        ("8.6", "8.9", True, False, True),
        ("8.6", "12.0", True, False, True),
        ("8.6", "7.5", True, False, False),
        ("8.7", "11.0", True, True, False),
    ],
)
def test_hardware(built: str, here: str, level: bool, jetson: bool, runs: bool) -> None:
    found = engine_fits(engine(hardware=built, hardware_compatible=level), machine(capability=here, is_jetson=jetson))
    assert (found == "") is runs


@pytest.mark.parametrize(
    ("built", "here", "capability", "runs"),
    [
        ("1.7.1.116", "1.7.1.116", "8.9", True),
        ("1.7.1", "1.7.1.116", "12.0", True),
        ("1.7.1", "1.7.1.116", "8.6", False),
        ("1.6.0", "1.7.1", "8.9", False),
        ("1.7.1", "1.8.0", "8.9", False),
    ],
)
def test_rtx_engines_run_on_their_release_and_capabilities(built: str, here: str, capability: str, runs: bool) -> None:
    rtx = engine(built, "8.9 12.0", "tensorrt-rtx", version_compatible=True)
    assert (engine_fits(rtx, Machine(tensorrt_rtx=here, capability=capability)) == "") is runs


def test_platforms_dlas_and_other_engines() -> None:
    here = machine(platform="linux-x86_64")
    assert engine_fits(engine(built={"platform": "linux-aarch64"}), here).endswith("this machine is linux-x86_64")
    assert engine_fits(engine(dla=1), machine(dla_cores=0)).endswith("DLA core 1; this machine has no DLA")
    assert engine_fits(engine(dla=1), machine(dla_cores=2)) == ""
    assert engine_fits(engine("1.30", "x86_64", "onnxruntime"), Machine()) == ""


def test_what_fits_may_still_be_slower() -> None:
    assert engine_notes(engine(), machine()) == ()
    (note,) = engine_notes(engine(built={"device": "NVIDIA A10"}), machine(device="NVIDIA RTX A6000"))
    assert note.startswith("built on NVIDIA A10, this is NVIDIA RTX A6000: TensorRT advises against")
    (note,) = engine_notes(engine(version_compatible=True), machine("10.13.3"))
    assert note == "a version-compatible engine of TensorRT 10.3: one built here may be faster"
    (note,) = engine_notes(engine(hardware="8.6", hardware_compatible=True), machine(capability="8.9"))
    assert note == "a hardware-compatible engine: one built here may be faster"
