"""What is said of an engine before it is deserialized."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import tiny
from fake_cuda import FakeCuda, cudaError_t

from edgebig.bundle import Bundle
from edgebig.compatibility import Machine
from edgebig.errors import BackendError
from edgebig.runtime.gpu.cuda import Cuda
from edgebig.runtime.gpu.machine import this_machine, why_not, why_taken
from edgebig.runtime.gpu.plan_header import PlanHeader, plan_header

ORIN = Machine(tensorrt="10.3.0", capability="8.7", is_jetson=True)


def header(*version: int, tag: bytes = b"ftrt", serialization: int = 0) -> bytes:
    """As trtexec reads one: tag, serialization version, sizes, four bytes of version at 24."""
    return tag + serialization.to_bytes(4, "little") + bytes(16) + bytes(version) + bytes(64)


def test_headers_say_who_built_an_engine() -> None:
    assert plan_header(header(10, 3, 0, 30)) == PlanHeader("tensorrt", "10.3.0.30")
    assert plan_header(header(1, 7, 1, 116, tag=b"vtrt")) == PlanHeader("tensorrt-rtx", "1.7.1.116")
    for data in (b"", b"ftrt", header(1, 2, 3, 4)[:27], header(1, 2, 3, 4, serialization=1), b"ptrt" + bytes(60)):
        assert plan_header(data) is None


def test_the_header_of_an_engine_that_tensorrt_rtx_built(tmp_path: Path) -> None:
    rtx = pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT-RTX is not installed")
    from edgebig.build.flavour import find_flavour
    from edgebig.build.profiles import Profile
    from edgebig.build.tensorrt import build_engine

    onnx.save(tiny.add_one(), tmp_path / "model.onnx")
    profiles = [{"x": Profile((1, 3), (2, 3), (8, 3))}]
    flavour = find_flavour("tensorrt-rtx")
    built = build_engine(tmp_path / "model.onnx", flavour, profiles=profiles, capabilities=("8.9",))
    found = plan_header(built.engine)
    assert found == PlanHeader("tensorrt-rtx", rtx.__version__)


def bundle_with(tmp_path: Path, kind: str, version: str, hardware: str, data: bytes) -> Bundle:
    bundle = tiny.write_bundle(tmp_path / "b.bundle", {"model": tiny.add_one()}, engines=[(kind, version, hardware)])
    (bundle.path / "engines/model.0.engine").write_bytes(data)
    return bundle


def refusal(bundle: Bundle, machine: Machine) -> str:
    return why_not(bundle, bundle.part().engines[0], machine)


def test_a_refusal_names_both_sides_and_the_command(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, "tensorrt", "10.3.0.30", "8.7", header(10, 3, 0, 30))
    assert refusal(bundle, ORIN) == ""
    thor = replace(ORIN, tensorrt="11.4.1", capability="11.0")
    assert refusal(bundle, thor) == (
        "built for TensorRT 10.3 on sm_87; this machine has 11.4 on sm_110: "
        f"run 'edgebig finish {tmp_path / 'b.bundle'}'"
    )


def test_the_header_counts_where_the_manifest_says_another_version(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, "tensorrt", "10.3.0.30", "8.7", header(10, 13, 0, 35))
    assert refusal(bundle, ORIN).startswith("built for TensorRT 10.13 on sm_87; this machine has 10.3 on sm_87: run")
    (bundle.path / "engines/model.0.engine").write_bytes(header(1, 7, 1, 116, tag=b"vtrt"))
    expected = "engines/model.0.engine is an engine of tensorrt-rtx, the manifest says tensorrt: copy the bundle anew"
    assert refusal(bundle, ORIN) == expected
    (bundle.path / "engines/model.0.engine").unlink()
    assert refusal(bundle, ORIN) == ""  # the hash is checked before it is loaded


def test_the_machine_as_cuda_tells_it() -> None:
    fake = FakeCuda()
    machine = this_machine("tensorrt-rtx", SimpleNamespace(__version__="1.7.1.116"), Cuda(fake))
    assert (machine.tensorrt, machine.tensorrt_rtx) == (None, "1.7.1.116")
    assert (machine.capability, machine.driver) == ("8.9", "CUDA 13.1")
    assert not machine.is_jetson
    fake.fail["cudaDeviceGetAttribute"] = cudaError_t.cudaErrorInsufficientDriver
    with pytest.raises(BackendError, match="cudaDeviceGetAttribute failed"):
        this_machine("tensorrt-rtx", SimpleNamespace(__version__="1"), Cuda(fake))


def test_an_engine_that_fits_says_what_makes_it_slower() -> None:
    engine = replace(
        tiny.Engine("e", "tensorrt", "10.3.0.30", ("8.7",)), version_compatible=True, built={"device": "Orin"}
    )
    said = why_taken(engine, replace(ORIN, tensorrt="10.13.0.35"))
    assert said.startswith("built with 10.3.0.30, this machine has 10.13.0.35; a version-compatible engine")
    assert why_taken(engine, ORIN) == "built with 10.3.0.30, this machine has 10.3.0"
