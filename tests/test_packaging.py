"""The wheel, built from the source distribution and used in a clean environment with numpy and click alone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import edgebig
from edgebig.resources import data_folder

ROOT = Path(__file__).resolve().parent.parent

# What a robot does not have, and what runs a bundle must therefore not load. ONNX Runtime is imported by a load.
ABSENT = [
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "optimum",
    "pydantic",
    "rich",
    "torch",
    "transformers",
    "yaml",
]


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Runs a command that must succeed; returns its standard output."""
    done = _run(*command, env=env, cwd=cwd)
    assert done.returncode == 0, f"{command[0]}: {done.stdout}{done.stderr}"
    return done.stdout


def _run(
    *command: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**clean, "PYTHONNOUSERSITE": "1", **(env or {})},
        cwd=cwd,
        timeout=300,
    )


def pip_install(*what: str | Path) -> None:
    """Installs with the versions of constraints.txt."""
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    run(sys.executable, "-m", "pip", *quiet, *what, "-c", ROOT / "constraints.txt")


@pytest.mark.parametrize("python", ["3.10", "3.13"])
def test_every_version_that_is_pinned_is_there_for_the_oldest_and_newest_python(python: str, tmp_path: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    asked = [
        f"{p.name}{p.specifier}" for p in pins if p.marker is None or p.marker.evaluate({"python_version": python})
    ]
    assert len(asked) > 50
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check")
    options = ("--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--implementation", "cp")
    done = _run(
        sys.executable,
        "-m",
        "pip",
        "install",
        *quiet,
        *options,
        "--target",
        tmp_path,
        "--python-version",
        python,
        *asked,
    )
    if done.returncode != 0 and re.search("connection|resolve host|timed out|proxy", done.stderr, re.IGNORECASE):
        reason = f"packages cannot be looked up: {done.stderr.strip()[-300:]}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    assert done.returncode == 0, done.stderr[-1500:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source distribution, as a user of either gets it."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def robot(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment with the base install and nothing else."""
    home = tmp_path_factory.mktemp("robot")
    venv.create(home, with_pip=False, symlinks=True)
    pip_install("--python", home / "bin" / "python", "install", wheel)
    return home / "bin"


def test_wheel_holds_all_code_and_data(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if name.startswith("edgebig/")}
    code = {file.relative_to(ROOT).as_posix() for file in (ROOT / "edgebig").rglob("*.py")}
    recipes = {f"edgebig/recipes/{file.name}" for file in (ROOT / "recipes").glob("*.yaml")}
    sets = {
        f"edgebig/calibration/{file.relative_to(ROOT / 'calibration').as_posix()}"
        for file in (ROOT / "calibration").rglob("*")
        if file.is_file() and file.parent.name != "sources" and file.suffix != ".pyc"
    }
    assert len(recipes) > 3
    some = ("sentences.txt", "shapes/shapes-00.jpg", "sounds/sounds-00.wav")
    assert {f"edgebig/calibration/{name}" for name in some} < sets
    types = {"edgebig/py.typed", "edgebig/calibrate/_counting.pyi", "edgebig/serve/_shared.pyi"}
    compiled = {name for name in held if name.endswith(".so")}
    tables = {"edgebig/targets.yaml", "edgebig/schemas/manifest-2.json"}
    assert held - compiled == code | recipes | sets | types | tables
    modules = {name.partition(".")[0] for name in compiled}
    assert modules == ({"edgebig/calibrate/_counting", "edgebig/serve/_shared"} if shutil.which("cc") else set())


def test_base_install_is_numpy_and_click(robot: Path) -> None:
    names = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    assert run(robot / "python", "-c", names, cwd=robot).split() == ["click", "edgebig", "numpy"]


def test_what_runs_a_bundle_loads_nothing_that_compiles(robot: Path) -> None:
    # Every module of the runtime, so that none is held back by a lazy import elsewhere.
    code = f"""
import importlib, json, pkgutil, sys
import edgebig, edgebig.bundle, edgebig.runtime, edgebig.serve, edgebig.tasks
for package in (edgebig.runtime, edgebig.serve, edgebig.tasks):
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(found.name)
import edgebig.loading
assert edgebig.load is edgebig.loading.load
stages = {{"edgebig." + name for name in ("source", "graph", "calibrate", "quantize", "build", "verify", "pipeline")}}
print(json.dumps([edgebig.__file__, sorted({{*{ABSENT}, *stages, "click"}} & set(sys.modules))]))
"""
    where, loaded = json.loads(run(robot / "python", "-c", code, cwd=robot))
    assert Path(where).is_relative_to(robot.parent)
    assert loaded == []


def test_version(robot: Path) -> None:
    assert edgebig.__version__ in run(robot / "edgebig", "--version", cwd=robot)


def test_compile_says_which_extra_is_missing(robot: Path, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x08\x0a")
    done = _run(robot / "edgebig", "compile", "x.onnx", "-o", "y", cwd=tmp_path)
    lines = done.stderr.strip().splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (3, "", 1), done.stderr
    assert "this needs edgebig[compile]" in lines[0]
    assert lines[0].endswith('pip install "edgebig[compile]"')
    assert [file.name for file in tmp_path.iterdir()] == ["x.onnx"]


def test_wheel_finds_its_recipes_targets_and_sets(robot: Path, tmp_path: Path) -> None:
    pip_install("install", "--target", tmp_path, "pydantic", "PyYAML")
    code = """
import json
from edgebig.recipe import Recipe
from edgebig.resources import data_folder
from edgebig.target import Target, targets
print(json.dumps([
    str(data_folder("recipes")), Recipe.load("imagenet").task, Target.load("l4").compute_capability,
    len(targets()), (data_folder("calibration") / "sentences.txt").read_text(encoding="utf-8"),
]))
"""
    found = json.loads(run(robot / "python", "-c", code, env={"PYTHONPATH": str(tmp_path)}, cwd=robot))
    recipes, task, capability, known, sentences = found
    assert Path(recipes).is_relative_to(robot.parent)
    assert (task, capability) == ("image-classification", "8.9")
    assert known > 20
    assert sentences == (ROOT / "calibration" / "sentences.txt").read_text(encoding="utf-8")


def test_checkout_finds_its_recipes_and_sets() -> None:
    assert data_folder("recipes") == ROOT / "recipes"
    assert data_folder("calibration") == ROOT / "calibration"
