"""The C client, compiled with warnings as errors and with sanitizers, against real servers."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import served
import tiny
from served import C_CODE, Served, compile_c

from edgebig.errors import BackendError
from edgebig.runtime import load
from edgebig.serve import layout as at
from edgebig.serve import status
from edgebig.serve.segment import attach

HERE = Path(__file__).resolve().parent
CHECKED = "address,undefined"


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    served.needs_compiled_module()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``y = x + 1``."""
    return tiny.write_bundle(tmp_path_factory.mktemp("add") / "b", {"model": tiny.add_one()}).path


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Served]:
    """Serves it with two slots and at most 8 rows."""
    with served.serving(bundle, "--shapes", "x:8x3", "--slots", "2") as running:
        yield running


@pytest.fixture(scope="module")
def stress(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_c(tmp_path_factory.mktemp("c") / "stress", HERE / "stress.c", sanitize=CHECKED, threads=True)


def run(*command: object, code: int = 0) -> str:
    """Standard output of a program that ends with that code and says nothing on standard error."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout + done.stderr
    return done.stdout


def test_python_and_c_have_one_layout(tmp_path: Path) -> None:
    lines = run(compile_c(tmp_path / "layout", HERE / "layout.c")).splitlines()
    found = {name: int(value) for name, value in (line.split() for line in lines)}
    assert found == {
        "header": at.HEADER_SIZE,
        "descriptor": at.TENSOR_STRIDE,
        "entry": at.ENTRY.size,
        "header.bell": at.BELL,
        "header.sleeping": at.SLEEPING,
        "header.released": at.RELEASED,
        "header.wanting": at.WANTING,
        "header.state": at.STATE,
        "header.heartbeat_ns": at.HEARTBEAT,
        "header.running_since_ns": at.RUNNING_SINCE,
        "header.calls": at.CALLS,
        "header.refused": at.REFUSED,
        "header.failed": at.FAILED,
        "header.reclaimed": at.RECLAIMED,
        "header.service_times": at.SERVICE_TIMES,
        "header.round_trips": at.ROUND_TRIPS,
        "header.server_start": at.FIXED.size - 8,
        "descriptor.offset": at.TENSOR.size - 32,
        "descriptor.capacity": at.TENSOR.size - 24,
        "request.owner": at.OWNER,
        "request.state": at.SLOT_STATE,
        "request.waiting": at.WAITING,
        "request.sequence": at.SEQUENCE,
        "request.answered": at.ANSWERED,
        "request.submitted_ns": at.SUBMITTED,
        "request.run_ns": at.RUN_TIME,
        "request.status": at.STATUS,
        "request.message_length": at.MESSAGE_LENGTH,
        "entry.dims": 8,
        "entry.bytes": at.ENTRY.size - 8,
        "version": at.VERSION,
        "message_size": at.MESSAGE_SIZE,
        "entries": at.ENTRIES,
    }


def test_the_header_is_good_cpp(tmp_path: Path) -> None:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    code = tmp_path / "node.cpp"
    code.write_text(
        '#include "edgebig_shm.h"\n'
        "int main() {\n"
        "    static float frame[12], scores[4];\n"
        "    edgebig_shm_array in = {frame, sizeof frame, EDGEBIG_FLOAT32, 2, {4, 3}};\n"
        "    edgebig_shm_array out = {scores, sizeof scores, EDGEBIG_FLOAT32, 0, {0}};\n"
        "    return edgebig_shm_run(nullptr, &in, &out, 100, nullptr, 0);\n"
        "}\n"
    )
    flags = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic", f"-I{C_CODE}", "-c")
    assert run(compiler, *flags, code, "-o", tmp_path / "node.o") == ""


def test_every_refusal(server: Served, tmp_path: Path) -> None:
    program = compile_c(tmp_path / "faults", HERE / "faults.c", sanitize=CHECKED)
    before = status(server.name)
    assert run(program, server.name) == ""
    after = status(server.name)
    assert (after["refused"] - before["refused"], after["failed"]) == (8, 0)
    assert after["clients"] == []


def test_threads_share_one_client(server: Served, stress: Path) -> None:
    before = status(server.name)["calls"]
    assert run(stress, server.name, 4, 200) == "0 of 4 threads failed\n"
    assert status(server.name)["calls"] - before == 800


def test_threads_race_for_nothing(server: Served, tmp_path: Path) -> None:
    program = compile_c(tmp_path / "stress", HERE / "stress.c", sanitize="thread", threads=True)
    assert run(program, server.name, 4, 100) == "0 of 4 threads failed\n"


def test_processes_share_the_slots(server: Served, stress: Path) -> None:
    command = [str(stress), server.name, "1", "150"]
    clients = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [client.communicate(timeout=120)[0] for client in clients] == ["0 of 1 threads failed\n"] * 3


def test_several_workers_and_clients_killed_at_any_moment(bundle: Path, stress: Path) -> None:
    random = np.random.default_rng(1)
    with served.serving(bundle, "--shapes", "x:8x3", "--slots", "3", "--workers", "3") as server:
        assert run(stress, server.name, 4, 200) == "0 of 4 threads failed\n"
        for _ in range(6):
            client = subprocess.Popen([str(stress), server.name, "3", "100000"], stdout=subprocess.DEVNULL)
            time.sleep(random.uniform(0.1, 0.3))
            client.kill()
            client.wait()
        assert served.until(lambda: status(server.name)["clients"] == [])
        assert run(stress, server.name, 4, 50) == "0 of 4 threads failed\n"
        assert status(server.name)["running_ms"] is None


def test_the_example_gives_the_session_s_outputs_bit_for_bit(tmp_path: Path) -> None:
    bundle = tiny.write_bundle(tmp_path / "b", {"model": tiny.two_inputs()}).path
    (tmp_path / "c").mkdir()
    run("make", "-s", "-C", C_CODE, f"OUT={tmp_path / 'c'}", f"SANITIZE={CHECKED}")
    left, right = np.random.default_rng(0).normal(size=(2, 7, 2)).astype(np.float32)
    left.tofile(tmp_path / "left.bin")
    right.tofile(tmp_path / "right.bin")
    with load(bundle, threads=1) as session:
        expected = session.run({"left": left, "right": right})
    with served.serving(bundle, "--shapes", "left:9x2,right:9x2") as server:
        files = (f"{tmp_path / 'left.bin'}:7x2", f"{tmp_path / 'right.bin'}:7x2")
        out = run(tmp_path / "c" / "run_model", server.name, "-n", 50, "-o", tmp_path / "out", *files)
    assert out.splitlines()[1:] == ["sum: dtype 1, shape 7x2", "product: dtype 1, shape 7x2"]
    for number, name in enumerate(("sum", "product")):
        assert (tmp_path / f"out.{number}").read_bytes() == expected[name].tobytes()


def test_the_example_lives_through_a_restart(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    run("make", "-s", "-C", C_CODE, f"OUT={tmp_path / 'c'}", f"SANITIZE={CHECKED}")
    np.arange(12, dtype=np.float32).tofile(tmp_path / "x.bin")
    first = served.start(bundle, "--shapes", "x:4x3")
    command = [tmp_path / "c" / "run_model", first.name, "-n", "20000", "-o", tmp_path / "out", tmp_path / "x.bin"]
    client = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert served.until(lambda: status(first.name)["calls"] > 100)
    first.kill()
    second = served.start(bundle, "--shapes", "x:4x3", name=first.name)
    _, err = client.communicate(timeout=120)
    assert client.returncode == 0, err
    assert err.splitlines() == ["run_model: the server has ended: close, and open again when it is back"]
    assert np.fromfile(tmp_path / "out.0", np.float32).tolist() == [i + 1.0 for i in range(12)]
    assert second.stop()[0] == 0


def test_the_slot_of_a_killed_client_is_taken_back(server: Served, stress: Path) -> None:
    before = status(server.name)["reclaimed"]
    holders = [
        subprocess.Popen([str(stress), server.name, "1", "1", "hold"], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for holder in holders:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holding\n"
    assert sorted(c["pid"] for c in status(server.name)["clients"]) == sorted(h.pid for h in holders)
    for holder in holders:
        holder.kill()
        holder.communicate()
    assert served.until(lambda: status(server.name)["reclaimed"] == before + 2)
    assert status(server.name)["clients"] == []
    assert run(stress, server.name, 2, 20) == "0 of 2 threads failed\n"


def test_clients_killed_at_any_moment_leave_nothing(server: Served, stress: Path) -> None:
    random = np.random.default_rng(0)
    for _ in range(12):
        client = subprocess.Popen([str(stress), server.name, "3", "100000"], stdout=subprocess.DEVNULL)
        time.sleep(random.uniform(0.1, 0.3))
        client.kill()
        client.wait()
    assert served.until(lambda: status(server.name)["clients"] == [])
    assert run(stress, server.name, 4, 50) == "0 of 4 threads failed\n"


ALL = b"\xff" * 8
DAMAGE = {
    "magic": (0, b"X"),
    "version": (8, b"\2"),
    "byte_order": (12, struct.pack(">I", at.BYTE_ORDER)),
    "segment_size": (16, b"\1"),
    "header_size": (32, ALL[:4]),
    "input_count": (40, ALL[:4]),
    "slots_offset": (48, ALL),
    "slot_stride": (56, ALL),
    "slot_stride 0": (56, bytes(8)),
    "slot_count": (64, ALL[:4]),
    "entries_offset": (68, b"\1"),
    "message_offset": (72, ALL[:4]),
    "names_offset": (80, ALL),
    "name_offset": (at.HEADER_SIZE, ALL[:4]),
    "rank": (at.HEADER_SIZE + 12, ALL[:4]),
    "offset": (at.HEADER_SIZE + 144, ALL),
}


@pytest.mark.parametrize("field", DAMAGE)
def test_a_damaged_header_is_refused(server: Served, stress: Path, field: str) -> None:
    (place, value), name = DAMAGE[field], served.new_name()
    copy = Path(f"/dev/shm/edgebig.{name}")
    content = bytearray(server.path.read_bytes())
    content[place : place + len(value)] = value
    try:
        copy.write_bytes(content)
        done = subprocess.run([stress, name, "1", "1"], capture_output=True, text=True)
        with pytest.raises(BackendError, match="version|byte order|no segment of edgebig|is damaged"):
            attach(name)
    finally:
        copy.unlink()
    expected = "not a segment of this version of edgebig, or a damaged one\n"
    assert (done.returncode, done.stderr) == (2, expected)
