"""Real ``edgebig serve`` processes, and the C client, for the tests of what is served."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runner import ROOT, environment
from onnx import TensorProto, helper

C_CODE = ROOT / "examples" / "c"
STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")


def rows(count: int, seed: int = 0) -> np.ndarray:  # type: ignore[type-arg]
    """Inputs of a small network, each of eight numbers."""
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


def slow_model() -> onnx.ModelProto:
    """``y = x`` (float32 200x200) after a loop of ``n`` rounds of some hundred µs each."""
    size, value = [200, 200], helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["a", "a"], ["p"]),
        helper.make_node("Clip", ["p", "low", "high"], ["b"]),
        helper.make_node("Identity", ["go"], ["on"]),
    ]
    ins = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("a", TensorProto.FLOAT, size)]
    outs = [value("on", TensorProto.BOOL, []), value("b", TensorProto.FLOAT, size)]
    limits = [helper.make_tensor(name, TensorProto.FLOAT, [], [x]) for name, x in (("low", 0.0), ("high", 1.0))]
    body = helper.make_graph(nodes, "round", ins, outs, limits)
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "slow",
        [helper.make_tensor_value_info("n", TensorProto.INT64, []), helper.make_tensor_value_info("x", 1, size)],
        [helper.make_tensor_value_info("y", 1, size)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@dataclass
class Served:
    """A running server."""

    name: str
    process: subprocess.Popen[str]

    @property
    def path(self) -> Path:
        """Its memory."""
        return Path(f"/dev/shm/edgebig.{self.name}")

    def kill(self) -> None:
        """As the kernel does it when memory runs out."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> tuple[int, str, str]:
        """As a service manager does it: exit code, standard output and error."""
        self.process.send_signal(signal.SIGTERM)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


def new_name() -> str:
    """One that no other test has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def start(bundle: Path, *options: str, name: str | None = None) -> Served:
    """``edgebig serve`` that says that it serves."""
    served = new_name() if name is None else name
    command = [sys.executable, "-m", "edgebig", "serve", str(bundle), "--shm", served, "--threads", "1", *options]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        # a shell that starts the tests in the background has their children ignore it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    if not process.stdout.readline().startswith("serving on"):
        raise AssertionError(process.communicate()[1])
    return Served(served, process)


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[Served]:
    """A server that is stopped at the end, if the test has not done so; nothing may be left of it."""
    served = start(bundle, *options)
    try:
        yield served
    finally:
        if served.process.poll() is None:
            code, _, err = served.stop()
            assert (code, err) == (0, "")
        served.path.unlink(missing_ok=True)


def until(condition, seconds: float = 10.0) -> bool:  # type: ignore[no-untyped-def]
    """Whether the condition comes true within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def skip_or_fail(reason: str) -> None:
    """Skips the test; fails where CI=true."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def needs_compiled_module() -> None:
    """Skips or fails where edgebig was installed without a C compiler."""
    try:
        import edgebig.serve._shared  # noqa: F401
    except ImportError as error:
        skip_or_fail(f"edgebig was installed without a C compiler: {error}")


def compile_c(out: Path, *sources: Path, sanitize: str = "", threads: bool = False) -> Path:
    """A program of the C client and the sources, warnings being errors."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        skip_or_fail("there is no C compiler")
    flags = [*STRICT, "-O1", "-g", f"-I{C_CODE}"] + ["-pthread"] * threads
    if sanitize:
        flags += [f"-fsanitize={sanitize}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
    files = [str(source) for source in (*sources, C_CODE / "edgebig_shm.c")]
    done = subprocess.run([str(compiler), *flags, "-o", str(out), *files], capture_output=True, text=True)
    if done.returncode != 0 and sanitize and "cannot find" in done.stderr:
        skip_or_fail(f"the compiler has no {sanitize} sanitizer: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return out
