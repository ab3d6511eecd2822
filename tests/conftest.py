"""Fixtures that several test folders use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# no test asserts a time: a busy machine is no reason to fail
settings.register_profile("edgebig", deadline=None, suppress_health_check=[HealthCheck.too_slow])
if os.environ.get("CI") != "true":  # there Hypothesis has a profile of its own, with the same and no randomness
    settings.load_profile("edgebig")


def _or_skip(path: Path, what: str) -> Path:
    """The path if it is there; else the test is skipped, or fails where CI=true."""
    if not path.exists():
        reason = f"{what} is not here ({path})"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return path


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests neither read nor fill the user's cache."""
    os.environ["EDGEBIG_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real trained models, pictures and audio that lies beside a developer's checkout."""
    return _or_skip(ROOT.parent / "shared" / "data", "the folder shared/data")
