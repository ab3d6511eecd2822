"""Fixtures of the command line's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
from cli_runner import Result, Run

from edgebig.cli.main import main


@pytest.fixture
def edgebig(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process, which saves the imports."""

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            main([str(a) for a in arguments])
        out, err = capfd.readouterr()
        assert isinstance(done.value.code, int)
        return Result(done.value.code, out, err)

    return run


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A model of two layers: float32 ``x`` batch x 8 to ``y`` batch x 4."""
    path = tmp_path / "mlp.onnx"
    onnx.save(tiny.mlp(), path)
    return path


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """40 calibration samples for ``mlp``."""
    path = tmp_path / "samples.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32))
    return path
