"""Repositories in Triton's own server: it takes every configuration and runs the warm-up requests.

PyTriton's wheel brings the server without the backends for engines and graphs. Those are stubs that answer every
request with nothing: what Triton's core makes of the repository is real, what a backend would make of the model is not.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import mlp, two_inputs, write_bundle
from triton_graphs import golden, graph, refit
from wheels import downloaded

from edgebig.bundle import Bundle
from edgebig.triton import triton_models, write_repository

VERSION = "0.7.0"
KEPT = Path(sys.prefix) / "edgebig-pytriton" / VERSION
SERVER = KEPT / "pytriton/tritonserver/bin/tritonserver"

STUB = """
#include <stdint.h>
#include <stdio.h>
typedef void *P;
P TRITONBACKEND_ResponseNew(P *, P);
P TRITONBACKEND_ResponseSend(P, uint32_t, P);
P TRITONBACKEND_RequestRelease(P, uint32_t);
P TRITONBACKEND_ModelInstanceExecute(P instance, P *requests, const uint32_t count) {
    fprintf(stderr, "stub: %u requests\\n", (unsigned)count);
    for (uint32_t i = 0; i < count; ++i) {
        P response = 0;
        TRITONBACKEND_ResponseNew(&response, requests[i]);
        TRITONBACKEND_ResponseSend(response, 1, 0);
        TRITONBACKEND_RequestRelease(requests[i], 1);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def server() -> Path:
    """The server, downloaded once; skips where that is impossible, and fails there where CI=true."""
    libc, version = platform.libc_ver()
    if platform.machine() != "x86_64" or libc != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, 35):
        pytest.skip("PyTriton's server needs x86-64 and glibc 2.35")
    if not SERVER.is_file():
        with downloaded("nvidia-pytriton", VERSION, KEPT) as archive:
            names = [n for n in archive.namelist() if n.startswith("nvidia_pytriton.libs/")]
            archive.extractall(KEPT, names)
            data = archive.read(SERVER.relative_to(KEPT).as_posix())
        SERVER.parent.mkdir(parents=True, exist_ok=True)
        partial = SERVER.with_suffix(f".{os.getpid()}.partial")
        partial.write_bytes(data)
        partial.chmod(0o755)
        partial.rename(SERVER)
    return SERVER


@pytest.fixture(scope="module")
def backends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backends")
    (folder / "stub.c").write_text(STUB)
    for name in ("onnxruntime", "tensorrt"):
        (folder / name).mkdir()
        command = ["cc", "-shared", "-fPIC", "-o", f"{name}/libtriton_{name}.so", "stub.c"]
        subprocess.run(command, cwd=folder, check=True, timeout=60)
    return folder


def serve(server: Path, backends: Path, repository: Path) -> tuple[dict[str, str], list[int]]:
    """The status of each model, and the sizes of the batches that came to a backend. The server ends by itself."""
    for config in repository.glob("*/config.pbtxt"):  # no GPU is here
        config.write_text(config.read_text().replace("KIND_GPU", "KIND_CPU"))
    (repository / "none/1").mkdir(parents=True)  # a model that fails: the server says what it thinks of each, and ends
    (repository / "none/config.pbtxt").write_text('backend: "none"\n')
    options = {"allow-http": "false", "allow-grpc": "false", "allow-metrics": "false", "exit-on-error": "true"}
    command = [str(server), f"--model-repository={repository}", f"--backend-directory={backends}"]
    command += [f"--{option}={value}" for option, value in options.items()]
    environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(KEPT / "nvidia_pytriton.libs")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    output = done.stdout + done.stderr
    rows = re.findall(r"^\| (\S+) +\| (\d+|-) +\| (.*?) +\|$", output, re.MULTILINE)
    assert rows, output[-2000:]
    return {name: status for name, _, status in rows}, [int(n) for n in re.findall(r"stub: (\d+) requests", output)]


def add(repository: Path, bundle: Bundle, name: str, **options: int) -> None:
    write_repository(bundle, triton_models(bundle, name=name, **options), repository)


def test_triton_takes_what_is_exported(server: Path, backends: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repo"
    shapes: Mapping[str, tuple[list[object], list[int]]] = {
        "rows": (["batch", 3, "h"], [2, 3, 5]),
        "rank-1": (["N"], [2]),
        "fixed": ([1, 3], [1, 3]),
        "unnamed": ([None, 3], [4, 3]),
    }
    for name, (shape, sizes) in shapes.items():
        model = graph({"x": shape}, {"y": shape})
        add(repository, write_bundle(tmp_path / name, {"model": model}, golden=golden(model, {"x": sizes})), name)
    both = write_bundle(tmp_path / "both", {"encoder": two_inputs(), "decoder": mlp()}, external=True)
    add(repository, both, "both", max_batch=4, instances=2)
    write_repository(both, triton_models(both, name="both", max_batch=4, instances=2), repository, version=2)
    target = {"name": "h100", "engine": "on-device", "compute_capability": "9.0"}
    arrays = golden(mlp(), {"x": [1, 8]})
    engine = write_bundle(
        tmp_path / "e", {"model": mlp()}, target=target, engines=[("tensorrt", "10.16", "9.0")], golden=arrays
    )
    many = {"x": {"min": [1, 8], "opt": [8, 8], "max": [32, 8]}}
    engine = refit(engine, engines=(replace(engine.part().engines[0], profiles=(many, many)),))
    write_repository(engine, triton_models(engine, name="engine", labels=["a", "b", "c", "d"]), repository)
    quantized = write_bundle(tmp_path / "q", {"model": mlp()}, target=target, quantized=True)
    add(repository, quantized, "quantized")
    states = {
        "state": ({"x": [1, 5], "state": [2, 1, 4]}, {"y": [1, 5], "stateN": [2, 1, 4]}),
        "states": ({"x": ["batch", 5], "h": ["batch", 4]}, {"y": ["batch", 5], "h_out": ["batch", 4]}),
    }
    for name, (inputs, outputs) in states.items():
        add(repository, write_bundle(tmp_path / name, {"model": graph(inputs, outputs)}), name)

    found, batches = serve(server, backends, repository)
    assert "unable to find backend library for backend 'none'" in found.pop("none")
    assert found == dict.fromkeys(
        [*shapes, "both_encoder", "both_decoder", "engine", "quantized", "state", "states"], "READY"
    )
    # one row and the largest batch for each model with golden inputs and a batch: rows, rank-1 (8) and the engine (32);
    # once for fixed and unnamed
    assert sorted(batches) == [1, 1, 1, 1, 1, 8, 8, 32]


def test_triton_would_refuse(server: Path, backends: Path, tmp_path: Path) -> None:
    """So that the test above can fail: a scalar, and a warm-up file that is too short."""
    model = graph({"x": ["batch", 4]}, {"y": ["batch", 4]})
    bundle = write_bundle(tmp_path / "b", {"model": model}, golden=golden(model, {"x": [1, 4]}))
    for name in ("scalar", "short"):
        add(tmp_path / "repo", bundle, name)
    config = tmp_path / "repo/scalar/config.pbtxt"
    text = (
        config.read_text()
        .replace("max_batch_size: 8", "max_batch_size: 0")
        .replace("dims: [4]", "dims: [1]\nreshape {}")
    )
    config.write_text(re.sub(r"(?s)dynamic_batching.*", "", text))
    (tmp_path / "repo/short/warmup/0.bin").write_bytes(b"\0\0\0\0")
    found, _ = serve(server, backends, tmp_path / "repo")
    assert "cannot have empty reshape for non-batching model" in found["scalar"]
    assert "warmup setting expects 16 bytes" in found["short"]
