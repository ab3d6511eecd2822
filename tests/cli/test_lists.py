"""``edgebig targets``, ``recipes`` and ``doctor``."""

from __future__ import annotations

import platform
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cli_runner import Run

from edgebig.cli import machine
from edgebig.cli.doctor import verdict
from edgebig.device.facts import read_facts
from edgebig.recipe import recipes
from edgebig.target import Target, targets


def test_targets(edgebig: Run) -> None:
    found = edgebig("targets", "--json").json["targets"]
    assert [row["name"] for row in found] == list(targets())
    l4 = next(row for row in found if row["name"] == "l4")
    assert (l4["engine"], l4["compute_capability"], "fp8" in l4["precisions"]) == ("ahead", "8.9", True)
    assert l4["sources"]["memory_gb"]
    shown = edgebig("targets")
    assert (shown.code, shown.err) == (0, "")
    lines = shown.out.splitlines()
    assert next(line for line in lines if line.startswith("  l4 ")).split()[:4] == ["l4", "ahead", "8.9", "24"]
    assert {target.group for target in targets().values()} <= set(lines)


def test_recipes(edgebig: Run) -> None:
    found = edgebig("recipes", "--json").json["recipes"]
    assert [row["name"] for row in found] == list(recipes())
    imagenet = next(row for row in found if row["name"] == "imagenet")
    assert imagenet["preprocess"]["crop"] == [224, 224]
    shown = edgebig("recipes").out
    assert all(f"\n{name} " in shown for name in recipes())


def test_doctor_on_this_machine(edgebig: Run) -> None:
    result = edgebig("doctor", "--json")
    found = result.json
    assert result.err == ""
    assert found["python"] == platform.python_version()
    assert found["cpu"]["cores"] >= 1
    assert found["memory"]["total_bytes"] > 1e8
    assert "CPUExecutionProvider" in found["engines"]["onnxruntime"]["providers"]
    assert found["extras"]["compile"] == {"complete": True, "absent": []}
    assert list(found["targets"]) == list(targets())
    assert found["targets"]["cpu"] == "compile here: yes (edgebig[compile] is installed); runs here"
    shown = edgebig("doctor")
    assert shown.code == 0
    assert f"Python        {platform.python_version()}\n" in shown.out
    assert re.search(r"^edgebig\[compile\] +complete$", shown.out, re.MULTILINE)


def test_what_each_target_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgebig.cli.doctor.absent_modules", lambda extra: [])
    assert verdict(Target.load("l4")) == (
        "compile here: yes, engine and all (edgebig[compile,rtx] is installed); runs on compute capability 8.9"
    )
    assert verdict(Target.load("agx-orin-64gb")) == (
        "the graph can be compiled and parser-checked here, the engine is built on the device"
    )
    monkeypatch.setattr("edgebig.cli.doctor.absent_modules", lambda extra: ["x"] if extra == "rtx" else [])
    assert verdict(Target.load("l4")) == 'compile here: not yet: pip install "edgebig[rtx]"'
    assert verdict(Target.load("cpu")) == "compile here: yes (edgebig[compile] is installed); runs here"


def test_a_jetson_and_a_processor_are_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "/proc/cpuinfo": "processor\t: 0\nmodel name\t: ARMv8 Processor\nFeatures\t: fp asimd asimddp bf16\n",
        "/proc/meminfo": "MemTotal:       64000000 kB\nMemFree: 1 kB\nMemAvailable:   60000000 kB\n",
        "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
        "/etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n",
    }
    monkeypatch.setattr(machine, "_read", lambda path: files.get(path, ""))
    found = machine.machine_facts()
    assert found["jetson"] == {
        "model": "NVIDIA Jetson AGX Orin Developer Kit",
        "l4t": "36.4.3",
        "jetpack": "6.2",
        "power_mode": "unknown",
        "clocks": "unknown",
    }
    assert found["cpu"]["model"] == "ARMv8 Processor"
    assert found["cpu"]["extensions"] == ["NEON", "DOTPROD", "BF16"]
    assert found["memory"] == {"total_bytes": 65_536_000_000, "available_bytes": 61_440_000_000}


def test_gpus_are_those_that_nvidia_smi_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA L4, 570.86.15, 23034 MiB, 8.9'\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    gpu = {"name": "NVIDIA L4", "driver": "570.86.15", "memory": "23034 MiB", "compute_capability": "8.9"}
    assert machine.machine_facts()["gpus"] == [gpu]
    program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n", encoding="utf-8")
    assert machine.machine_facts()["gpus"] == []


def test_an_engine_that_does_not_load_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so: no such file')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    assert machine.machine_facts()["engines"]["tensorrt"] == {
        "version": "unknown",
        "problem": "libnvinfer.so: no such file",
    }


def test_doctor_fails_where_something_needed_is_missing(edgebig: Run) -> None:
    there = edgebig("doctor", "--need", "onnxruntime")
    assert there.code == 0 and "onnxruntime" in there.out
    unknown = edgebig("doctor", "--need", "gpu,tpu")
    assert unknown.code == 2
    assert unknown.err == (
        "edgebig: error: --need gpu,tpu: no such thing as 'tpu': choose of gpu, tensorrt, tensorrt-rtx, onnxruntime\n"
    )


def test_doctor_says_why_it_is_missing(edgebig: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = "the driver shows no GPU"
    no_gpu = replace(read_facts(cuda=problem, run=lambda command: None, versions=(None, None)), problem=problem)
    monkeypatch.setattr("edgebig.device.facts.read_facts", lambda **_: no_gpu)
    engines = {"tensorrt": {"version": "10.3", "problem": "libcudart.so.12 is missing"}, "tensorrt_rtx": None}
    monkeypatch.setattr("edgebig.cli.machine.machine_facts", lambda: {"engines": engines})
    lacking = edgebig("doctor", "--need", "gpu,tensorrt,tensorrt-rtx", "--json")
    assert lacking.code == 16 and lacking.out.count('"error"') == 1
    assert lacking.json["error"]["message"] == (
        "this machine lacks what is needed: gpu: the driver shows no GPU; "
        "tensorrt: it does not load: libcudart.so.12 is missing; tensorrt-rtx: not installed"
    )
    gpu = replace(no_gpu, machine=replace(no_gpu.machine, capability="8.7"), problem="")
    monkeypatch.setattr("edgebig.device.facts.read_facts", lambda **_: gpu)
    assert "gpu" not in edgebig("doctor", "--need", "gpu,tensorrt-rtx").err
