"""The command itself: help, usage, errors, the base install, standard output kept clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import numpy
import pytest
from cli_runner import ROOT, Result, Run, environment, run_process

import edgebig as package
from edgebig.cli import main as main_module

COMMANDS = ("compile", "run", "inspect", "bench", "eval", "debug", "targets", "recipes", "doctor", "timing-cache")


def test_version_and_help(edgebig: Run) -> None:
    assert edgebig("--version") == Result(0, f"edgebig, version {package.__version__}\n", "")
    bare = edgebig()
    assert bare == edgebig("-h") == edgebig("--help")
    assert bare.code == 0
    assert all(f"\n  {command} " in bare.out for command in COMMANDS)
    for command in COMMANDS:
        shown = edgebig(command, "-h")
        assert (shown.code, shown.err) == (0, "")
        assert shown == edgebig(command, "--help")
        assert f"Usage: edgebig {command}" in shown.out
    assert "Examples:\n    edgebig compile model.onnx -o model.bundle\n" in edgebig("compile", "-h").out


def test_a_command_that_does_not_exist(edgebig: Run) -> None:
    result = edgebig("compil")
    assert result.code == 2
    assert result.err.startswith("edgebig: error: No such command 'compil'")
    assert result.err.count("\n") == 1


def test_an_unexpected_error_is_one_line(edgebig: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def broken() -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("edgebig.cli.doctor.command", broken)
    expected = "internal error: RuntimeError: two lines: this is a bug; run again with EDGEBIG_TRACEBACK=1 to see where"
    assert edgebig("doctor") == Result(1, "", f"edgebig: {expected}\n")
    monkeypatch.setenv("EDGEBIG_TRACEBACK", "1")
    result = edgebig("doctor")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Traceback (most recent call last):")
    assert result.err.endswith(f"edgebig: {expected}\n")


def test_interrupts_end_with_130(edgebig: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command()
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("edgebig.cli.doctor.command", interrupted)
    assert edgebig("doctor") == Result(130, "", "edgebig: interrupted\n")


@pytest.fixture
def base_install(tmp_path: Path) -> Path:
    """A folder of packages that holds edgebig, numpy and click alone."""
    folder = tmp_path / "packages"
    folder.mkdir()
    for module in (package, numpy, click):
        place = Path(str(module.__file__)).parent
        (folder / place.name).symlink_to(place)
        libraries = place.with_name(f"{place.name}.libs")
        if libraries.is_dir():
            (folder / libraries.name).symlink_to(libraries)
    return folder


def _run_base(packages: Path, *arguments: object) -> Result:
    """Without site-packages: nothing but those packages and the standard library is there."""
    program = f"import sys; sys.path.insert(0, {str(packages)!r}); from edgebig.cli.main import main; main()"
    command = [sys.executable, "-I", "-S", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return Result(done.returncode, done.stdout, done.stderr)


def test_the_base_install_starts_and_says_what_is_missing(base_install: Path, mlp: Path, tmp_path: Path) -> None:
    shown = _run_base(base_install, "-h")
    assert (shown.code, shown.err) == (0, "")
    assert all(f"\n  {command} " in shown.out for command in COMMANDS)
    doctor = _run_base(base_install, "doctor", "--json")
    assert doctor.code == 0
    assert doctor.json["engines"]["onnxruntime"] is None
    assert doctor.json["extras"]["cpu"] == {"complete": False, "absent": ["onnxruntime"]}
    assert doctor.json["targets"] is None
    assert 'pip install "edgebig[compile]"' in doctor.json["targets_need"]
    for arguments in (("compile", mlp, "-o", tmp_path / "b"), ("targets",), ("recipes",), ("inspect", mlp)):
        result = _run_base(base_install, *arguments)
        assert (result.code, result.out) == (3, "")
        assert result.err.startswith("edgebig: error: this needs edgebig[compile] (")
        assert result.err.endswith(' is not installed): pip install "edgebig[compile]"\n')
    assert not (tmp_path / "b").exists()


def test_starting_is_light() -> None:
    program = "import sys, edgebig.cli.main as m; m.cli.list_commands(None); print(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )
    heavy = {"numpy", "onnx", "onnx_ir", "onnxruntime", "pydantic", "yaml", "torch", "rich", "tensorrt_rtx_bindings"}
    assert heavy.isdisjoint(done.stdout.split())


def test_whatever_libraries_print_goes_to_standard_error() -> None:
    program = """
import ctypes, os, sys
from edgebig.cli.console import guarded_stdout
with guarded_stdout() as out:
    os.write(1, b"from C++\\n")
    ctypes.CDLL(None).puts(b"from a buffer of C")
    print("from Python")
    out.write("progress\\n")
print("result")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment(), timeout=60
    )
    assert done.stdout == "progress\nresult\n"
    assert sorted(done.stderr.splitlines()) == ["from C++", "from Python", "from a buffer of C"]


def test_closed_and_ascii_streams(mlp: Path, tmp_path: Path) -> None:
    env = {**environment(), "PYTHONIOENCODING": "ascii"}
    done = run_process("compile", mlp, "-o", tmp_path / "a", env=env)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("[1/6] source ?\n")
    shell = f"exec {sys.executable} -m edgebig compile {mlp} -o {tmp_path / 'b'} >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], env=environment(), check=False, timeout=60).returncode == 0
    assert (tmp_path / "b" / "manifest.json").is_file()


def test_the_entry_point_is_main() -> None:
    assert "edgebig = edgebig.cli.main:main" in (ROOT / "setup.cfg").read_text(encoding="utf-8")
    assert callable(main_module.main)
