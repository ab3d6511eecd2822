"""A fake GPU, TensorRT on it, and a bundle with an engine for it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny
from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRt

from edgebig.bundle import Bundle
from edgebig.runtime.gpu import dlpack


@pytest.fixture
def cuda() -> Iterator[FakeCuda]:
    """A device on which nothing may be left, or used after it was freed."""
    fake = FakeCuda()
    yield fake
    gc.collect()
    assert fake.problems == []
    assert fake.live == {}
    assert dlpack._lent == {}


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """A file that the fake TensorRT loads."""
    path = tmp_path / "model.engine"
    path.write_bytes(b"engine")
    return path


@pytest.fixture
def trt(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> FakeTensorRt:
    """TensorRT on that device; the runtime finds both, as where they are installed."""
    found = FakeTensorRt(cuda)
    for module in ("gpu.cuda", "tensorrt"):
        monkeypatch.setattr(f"edgebig.runtime.{module}.import_cuda", lambda: cuda)
    for module in ("gpu.engine", "tensorrt"):
        monkeypatch.setattr(f"edgebig.runtime.{module}.import_tensorrt", lambda flavour: found)
    return found


@pytest.fixture
def gpu_bundle(trt: FakeTensorRt, tmp_path: Path) -> Bundle:
    """``y = x + 1`` with an engine that runs on that TensorRT."""
    engines = [("tensorrt", "10.3.0", "8.9")]
    made = tiny.write_bundle(tmp_path / "b", {"model": tiny.add_one()}, target=tiny.L4_TARGET, engines=engines)
    trt.engine = (made.path / "engines/model.0.engine").read_bytes()
    return made
