"""Facts of machines, from texts of real ones.

``/etc/nv_tegra_release``: as owners of the devices published it (R35.4.1 on a Xavier NX, R36.4.3 on an Orin NX, R38.2.0
in issue 711 of jetson_stats; of R39 only the beginning of the line is known). ``nvpmodel -q``: Thor in pull request 460
of jetpack-nixos, Orin Nano in guides to its MAXN_SUPER mode. nvidia-smi: ``Orin (nvgpu)`` and its ``[N/A]`` as owners
show them.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgebig.device.cuda_driver import CudaDevice, cuda_device
from edgebig.device.facts import Gpu, jetpack_of, read_driver, read_facts, read_gpus, read_l4t, read_power_mode

R35 = (
    "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 19:57:35 UTC 2023"
)
R36 = """\
# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025
# KERNEL_VARIANT: oot
TARGET_USERSPACE_LIB_DIR=nvidia
TARGET_USERSPACE_LIB_DIR_PATH=usr/lib/aarch64-linux-gnu/nvidia
"""
R38 = (
    "# R38 (release), REVISION: 2.0, GCID: 41844464, BOARD: generic, EABI: aarch64, DATE: Fri Aug 22 00:55:42 UTC 2025"
)
R39 = "# R39 (release), REVISION: 2.1, GCID: 0, BOARD: generic, EABI: aarch64"


def put(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def says(**answers: str):  # type: ignore[no-untyped-def]
    def run(command: Sequence[str]) -> str | None:
        return answers.get(command[0].replace("-", "_"))

    return run


@pytest.mark.parametrize(
    ("text", "l4t", "jetpack"),
    [(R35, "35.4.1", "5.1.2"), (R36, "36.4.3", "6.2"), (R38, "38.2.0", "7.0"), (R39, "39.2.1", "7.2.1"), ("?", "", "")],
)
def test_the_release_of_each_jetpack(tmp_path: Path, text: str, l4t: str, jetpack: str) -> None:
    put(tmp_path, "etc/nv_tegra_release", text)
    assert read_l4t(tmp_path) == l4t
    assert jetpack_of(l4t) == jetpack


def test_releases_are_told_apart_by_their_longest_name() -> None:
    assert [
        jetpack_of(r)
        for r in ("36.4.0", "36.4.3", "36.4.4", "36.4.7", "36.5.0", "36.3.0", "35.6.0", "35.6.2", "35.6.4")
    ] == [
        "6.1",
        "6.2",
        "6.2.1",
        "6.2.1",
        "6.2.2",
        "6.0",
        "5.1.4",
        "5.1.5",
        "5.1.6",
    ]
    assert jetpack_of("40.1") == jetpack_of("36.6.0") == ""


@pytest.mark.parametrize(
    ("text", "mode"),
    [("NV Power Mode: MAXN\n0\n", "MAXN"), ("NV Power Mode: MAXN_SUPER\n2\n", "MAXN_SUPER"), ("NVPM ERROR\n", "")],
)
def test_the_power_mode(text: str, mode: str) -> None:
    assert read_power_mode(says(nvpmodel=text)) == mode


def test_an_orin_with_jetpack_6(tmp_path: Path) -> None:
    put(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0")
    put(tmp_path, "etc/nv_tegra_release", R36)
    put(tmp_path, "proc/meminfo", "MemTotal:       15656500 kB\nMemAvailable:   12000000 kB\n")
    for name in ("min_freq", "max_freq"):
        put(tmp_path, f"sys/class/devfreq/17000000.gpu/{name}", "918000000\n")
    cuda = CudaDevice("Orin", "8.7", 15656500 << 10, True, "12.6")
    run = says(nvpmodel="NV Power Mode: MAXN\n0\n")
    facts = read_facts(root=tmp_path, run=run, cuda=cuda, versions=("10.3.0", None))
    machine = facts.machine
    assert (machine.capability, machine.tensorrt, machine.is_jetson) == ("8.7", "10.3.0", True)
    assert (machine.driver, machine.memory_bytes) == ("CUDA 12.6", 15656500 << 10)
    built = {key: value for key, value in facts.built().items() if key != "platform"}
    assert built == {
        "device": "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        "driver": "CUDA 12.6",
        "power_mode": "MAXN",
        "clocks": "locked",
        "software": "JetPack 6.2",
    }
    put(tmp_path, "sys/class/devfreq/17000000.gpu/min_freq", "306000000\n")
    assert read_facts(root=tmp_path, run=run, cuda=cuda, versions=(None, None)).built()["clocks"] == "free"


def test_a_jetson_in_a_container_that_hides_its_device_tree(tmp_path: Path) -> None:
    cuda = CudaDevice("NVIDIA Thor", "11.0", 131_000_000_000, True, "13.0")

    def seen(gpu: CudaDevice) -> tuple[bool, str, int | None]:
        machine = read_facts(root=tmp_path, run=says(), cuda=gpu, versions=(None, None)).machine
        return machine.is_jetson, machine.device, machine.dla_cores

    assert seen(cuda) == (True, "Jetson (NVIDIA Thor, 122 GB)", None)
    assert seen(CudaDevice("NVIDIA GB10", "12.1", 128 << 30, True, "13.0")) == (False, "NVIDIA GB10", 0)
    put(tmp_path, "etc/nv_tegra_release", R39)  # handed in with -v
    facts = read_facts(root=tmp_path, run=says(), cuda=CudaDevice("Orin", "8.7", 61 << 30, True, "13.2"))
    assert facts.built()["software"] == "JetPack 7.2.1" and facts.machine.device == "Jetson (Orin, 61 GB)"
    put(tmp_path, "tmp/nv_jetson_model", "NVIDIA Jetson AGX Thor Developer Kit\0")
    assert seen(cuda) == (True, "NVIDIA Jetson AGX Thor Developer Kit", None)


def test_a_server_and_a_machine_without_a_gpu(tmp_path: Path) -> None:
    text = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\nGCC version: 12\n"
    put(tmp_path, "proc/driver/nvidia/version", text)
    assert read_driver(tmp_path) == "535.104.05"
    cuda = CudaDevice("NVIDIA H100 80GB HBM3", "9.0", 85 << 30, False, "12.2")
    facts = read_facts(root=tmp_path, run=says(), cuda=cuda, versions=("10.16.1", None))
    assert facts.jetson is None and facts.problem == ""
    assert (facts.machine.device, facts.machine.driver) == ("NVIDIA H100 80GB HBM3", "535.104.05")
    none = read_facts(root=tmp_path / "empty", run=says(), cuda="the driver shows no GPU", versions=(None, None))
    assert none.machine.capability is None and none.problem == "the driver shows no GPU"
    smi = says(nvidia_smi="NVIDIA L4, 580.65.06, 23034 MiB, 8.9\n")
    seen = read_facts(root=tmp_path / "empty", run=smi, cuda="not found", versions=(None, None))
    assert (seen.machine.capability, seen.machine.memory_bytes, seen.problem) == ("8.9", 23034 << 20, "")


def test_what_nvidia_smi_does_not_know_is_empty() -> None:
    assert read_gpus(says(nvidia_smi="Orin (nvgpu), [N/A], [N/A], 8.7\n")) == [Gpu("Orin (nvgpu)", "", None, "8.7")]
    assert read_gpus(says(nvidia_smi="NVIDIA Thor, 580.00, [N/A], 11.0\n")) == [
        Gpu("NVIDIA Thor", "580.00", None, "11.0")
    ]
    assert read_gpus(says(nvidia_smi="No devices were found\n")) == [] == read_gpus(says())


_FAKE = r"""
#include <string.h>
#include <stddef.h>
int cuInit(unsigned flags) { return INIT; }
int cuDeviceGetCount(int *n) { *n = COUNT; return 0; }
int cuDeviceGet(int *d, int i) { *d = i + 40; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, d == 40 ? "Orin" : "?", n); return 0; }
int cuDeviceTotalMem_v2(size_t *b, int d) { *b = (size_t)64 << 30; return 0; }
int cuDriverGetVersion(int *v) { *v = 12060; return 0; }
int cuDeviceGetAttribute(int *v, int a, int d) { *v = a == 75 ? 8 : a == 76 ? 7 : a == 18 ? 1 : -1; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is here")
@pytest.mark.parametrize(
    ("init", "count", "found"),
    [
        (0, 1, CudaDevice("Orin", "8.7", 64 << 30, True, "12.6")),
        (0, 0, "the driver shows no GPU"),
        (100, 0, "the driver shows no GPU"),
        (999, 0, "NVIDIA's driver fails: cuInit gives error 999"),
    ],
)
def test_the_driver_is_asked_through_its_library(
    tmp_path: Path, init: int, count: int, found: CudaDevice | str
) -> None:
    """The library is a stand-in, compiled here, with the signatures of the CUDA driver API."""
    (tmp_path / "cuda.c").write_text(_FAKE)
    library = tmp_path / "libcuda.so"
    command = ["cc", "-shared", "-fPIC", f"-DINIT={init}", f"-DCOUNT={count}", "-o", library, tmp_path / "cuda.c"]
    subprocess.run(command, check=True)
    assert cuda_device(library=str(library)) == found


def test_without_a_driver_it_says_so() -> None:
    assert (
        cuda_device(library="libcuda-absent.so.1")
        == "NVIDIA's driver is not installed (libcuda-absent.so.1 is not found)"
    )
