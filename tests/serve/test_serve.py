"""Servers and clients in processes of their own: values, refusals, deaths, names."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import served
from cli_runner import environment, run_process
from served import Served, rows

from edgebig.errors import BackendError, InputError
from edgebig.runtime import load
from edgebig.serve import Client, ServerGone, ServerTimeout, status
from edgebig.serve import layout as at
from edgebig.serve.segment import attach


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    served.needs_compiled_module()


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Served]:
    with served.serving(bundle, "--shapes", "x:16x8", "--slots", "2") as running:
        yield running


def test_outputs_are_the_session_s_bit_for_bit(server: Served, bundle: Path) -> None:
    with load(bundle, threads=1) as session, Client(server.name) as client:
        assert [str(spec) for spec in client.inputs] == ["x: float32 ?x8"]
        assert [str(spec) for spec in client.outputs] == ["y: float32 ?x4"]
        for count in (1, 16, 3, 0, 16):
            x = rows(count, seed=count)
            expected, found = session.run({"x": x})["y"], client.run({"x": x})["y"]
            assert (found.shape, found.dtype) == ((count, 4), np.float32)
            assert found.tobytes() == expected.tobytes()


def test_a_slot_is_written_and_read_in_place(server: Served, bundle: Path) -> None:
    with load(bundle, threads=1) as session, Client(server.name) as client, client.slot() as slot:
        place = slot.input("x", (5, 8))
        assert place.ctypes.data % at.ALIGN == 0
        for seed in range(3):
            place[...] = rows(5, seed)
            slot.run()
            found = slot.output("y")
            assert not found.flags.writeable
            np.testing.assert_array_equal(found, session.run({"x": rows(5, seed)})["y"])


def test_a_client_alternates_between_two_slots(server: Served) -> None:
    with Client(server.name) as client:
        places = []
        for _ in range(4):
            with client.slot() as slot:
                places.append(slot.input("x").ctypes.data)
    assert places[:2] == places[2:]
    assert places[0] != places[1]


def test_arrays_of_any_strides_are_taken(server: Served) -> None:
    x = rows(4)
    with Client(server.name) as client:
        turned = np.asfortranarray(x)
        np.testing.assert_array_equal(client.run({"x": turned})["y"], client.run({"x": x})["y"])


def test_what_does_not_fit_is_refused_and_the_server_goes_on(server: Served) -> None:
    before = status(server.name)
    with Client(server.name) as client:
        for bad, message in [
            ({"x": rows(17)}, "input 'x' has room for 16x8, found 17x8: serve it with larger --shapes"),
            ({"x": rows(2).astype(np.float64)}, "input x: float32 [?]x8 was given as float64"),
            ({"x": rows(2)[:, :7]}, "axis 1 of input 'x' must be 8"),
            ({"x": rows(2)[0]}, "input 'x' has 2 axes"),
            ({"x": rows(2).tolist()}, "was given as list"),
            ({"z": rows(2)}, "the model takes x: float32 [?]x8; found z"),
            ({}, "the model takes x"),
        ]:
            with pytest.raises(InputError, match=message):
                client.run(bad)  # type: ignore[arg-type]
        with client.slot() as slot, pytest.raises(InputError, match="input 'x' was not written"):
            slot.run()
        with client.slot() as slot, pytest.raises(InputError, match="no output 'z': its outputs are y"):
            slot.output("z")
        assert client.run({"x": rows(2)})["y"].shape == (2, 4)
    after = status(server.name)
    assert (after["refused"] - before["refused"], after["failed"], after["clients"]) == (2, 0, [])


def test_status_counts_and_names_clients(server: Served) -> None:
    before = status(server.name)["calls"]
    with Client(server.name) as client:
        for _ in range(10):
            client.run({"x": rows(1)})
        with client.slot():
            found = status(server.name)
            assert found["clients"] == [{"pid": os.getpid(), "state": "alive", "slots": ["idle"]}]
    assert (found["state"], found["pid"], found["slots"]) == ("serving", server.process.pid, 2)
    assert found["calls"] == before + 10
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": [None, 8], "largest": [16, 8]}]
    assert found["heartbeat_ms"] < 2000
    for times in (found["service_us"], found["round_trip_us"]):
        assert 0 < times["p50"] <= times["p99"] <= times["max"]
    shown = run_process("serve", "--status", server.name)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"{server.name}: serving, process {server.process.pid}\n")
    assert f"{found['calls']} calls" in shown.out
    assert run_process("serve", "--status", server.name, "--json").json["slots"] == 2


def test_threads_of_one_client(server: Served, bundle: Path) -> None:
    wrong: list[int] = []
    with load(bundle, threads=1) as session, Client(server.name) as client:
        expected = [session.run({"x": rows(3, seed)})["y"] for seed in range(4)]

        def work(seed: int) -> None:
            for _ in range(100):
                if not np.array_equal(client.run({"x": rows(3, seed)}, timeout=60)["y"], expected[seed]):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_all_slots_taken_and_a_slot_given_back(server: Served) -> None:
    with Client(server.name) as client, client.slot():
        with client.slot(), pytest.raises(ServerTimeout, match="all slots of .* are taken: serve it with more --slots"):
            client.run({"x": rows(1)}, timeout=0.05)
        assert client.run({"x": rows(1)})["y"].shape == (1, 4)


def test_a_client_that_gives_up_leaves_a_free_slot(slow: Path) -> None:
    x = np.full((200, 200), 0.01, np.float32)
    with served.serving(slow, "--slots", "1") as server, Client(server.name) as client:
        with pytest.raises(ServerTimeout, match="no answer within 0.05 s"):
            client.run({"n": np.array(3000), "x": x}, timeout=0.05)
        found = status(server.name)
        assert found["clients"][0]["slots"] == ["dropped"]
        assert found["running_ms"] > 0
        assert client.run({"n": np.array(0), "x": x}, timeout=60)["y"].tobytes() == x.tobytes()
        assert status(server.name)["clients"] == []


def test_a_request_that_waits_is_withdrawn(slow: Path) -> None:
    x = np.full((200, 200), 0.01, np.float32)
    with served.serving(slow, "--slots", "2") as server, Client(server.name) as client:
        first = threading.Thread(target=client.run, args=({"n": np.array(2000), "x": x}, 60))
        first.start()
        assert served.until(lambda: status(server.name)["running_ms"] is not None)
        with pytest.raises(ServerTimeout):
            client.run({"n": np.array(0), "x": x}, timeout=0.02)
        assert status(server.name)["clients"][0]["slots"] == ["running"]
        first.join()
        assert status(server.name)["calls"] == 1


def test_a_client_killed_during_its_run(slow: Path) -> None:
    program = """
import sys, numpy as np
from edgebig.serve import Client
client = Client(sys.argv[1])
client.run({"n": np.array(3000), "x": np.full((200, 200), 0.01, np.float32)}, timeout=60)
"""
    with served.serving(slow, "--slots", "1") as server:
        dying = subprocess.Popen([sys.executable, "-c", program, server.name], env=environment())
        assert served.until(lambda: status(server.name)["running_ms"] is not None, 30)
        dying.kill()
        dying.wait()
        assert served.until(lambda: status(server.name)["reclaimed"] == 1)
        x = np.full((200, 200), 0.01, np.float32)
        with Client(server.name) as client:
            assert client.run({"n": np.array(0), "x": x}, timeout=60)["y"].tobytes() == x.tobytes()
        assert status(server.name)["clients"] == []


def test_a_killed_server_is_seen_at_once_and_replaced(bundle: Path) -> None:
    first = served.start(bundle, "--shapes", "x:16x8")
    with Client(first.name) as client:
        assert client.run({"x": rows(2)})["y"].shape == (2, 4)
        first.kill()
        assert first.path.exists()
        assert status(first.name)["state"] == "dead"
        start = time.monotonic()
        with pytest.raises(ServerGone, match="is gone: start 'edgebig serve BUNDLE --shm"):
            client.run({"x": rows(2)}, timeout=60)
        assert time.monotonic() - start < 10
        with pytest.raises(ServerGone):
            Client(first.name)
        second = served.start(bundle, "--shapes", "x:16x8", name=first.name)
        with pytest.raises(ServerGone):
            client.run({"x": rows(2)})
        with Client(first.name) as again:
            assert again.run({"x": rows(2)})["y"].shape == (2, 4)
    assert second.stop()[0] == 0
    assert not first.path.exists()


def test_a_server_killed_during_a_run(slow: Path) -> None:
    server = served.start(slow)
    seen: list[Exception] = []
    with Client(server.name) as client:

        def call() -> None:
            try:
                client.run({"n": np.array(10_000_000), "x": np.zeros((200, 200), np.float32)}, timeout=120)
            except BackendError as error:
                seen.append(error)

        waiting = threading.Thread(target=call)
        waiting.start()
        assert served.until(lambda: status(server.name)["running_ms"] is not None)
        server.kill()
        waiting.join(30)
    server.path.unlink()
    assert [type(error) for error in seen] == [ServerGone]


def test_a_server_that_stands_still_is_told_apart(server: Served) -> None:
    with Client(server.name) as client:
        server.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(ServerGone, match=r"has stood still for \d+\.\d s: look at its process"):
                client.run({"x": rows(1)}, timeout=30)
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert client.run({"x": rows(1)}, timeout=30)["y"].shape == (1, 4)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_order(bundle: Path, number: signal.Signals) -> None:
    server = served.start(bundle, "--shapes", "x:16x8")
    with Client(server.name) as client:
        server.process.send_signal(number)
        _, err = server.process.communicate(timeout=30)
        assert (server.process.returncode, err) == (0, "")
        assert not server.path.exists()
        with pytest.raises(ServerGone):
            client.run({"x": rows(1)})


def test_a_request_that_waits_is_answered_when_the_server_stops(slow: Path) -> None:
    x, results = np.full((200, 200), 0.01, np.float32), {}
    server = served.start(slow, "--slots", "2")
    with Client(server.name) as client:

        def call(key: str, rounds: int) -> None:
            try:
                results[key] = client.run({"n": np.array(rounds), "x": x}, timeout=60)["y"].shape
            except BackendError as error:
                results[key] = str(error)

        first = threading.Thread(target=call, args=("first", 3000))
        first.start()
        assert served.until(lambda: status(server.name)["running_ms"] is not None)
        second = threading.Thread(target=call, args=("second", 0))
        second.start()
        assert served.until(lambda: "waiting" in str(status(server.name)["clients"]))
        assert server.stop()[0] == 0
        first.join()
        second.join()
    assert results == {"first": (200, 200), "second": "the server was stopped"}


def test_two_servers_of_one_name(server: Served, bundle: Path) -> None:
    done = run_process("serve", bundle, "--shm", server.name, "--shapes", "x:16x8")
    message = f"a server with the name '{server.name}' runs already: stop it, or choose another --shm"
    assert (done.code, done.out, done.err) == (13, "", f"edgebig: error: {message}\n")
    with Client(server.name) as client:
        assert client.run({"x": rows(1)})["y"].shape == (1, 4)


def test_servers_that_start_at_once(bundle: Path) -> None:
    name = served.new_name()
    command = [sys.executable, "-m", "edgebig", "serve", str(bundle), "--shm", name, "--shapes", "x:16x8"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment()}
    processes = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    assert served.until(lambda: sum(p.poll() is None for p in processes) == 1, 60)
    (winner,) = (p for p in processes if p.poll() is None)
    assert [p.returncode for p in processes if p is not winner] == [13, 13]
    with Client(name) as client:
        assert client.run({"x": rows(1)})["y"].shape == (1, 4)
    winner.send_signal(signal.SIGTERM)
    assert winner.wait(30) == 0


@pytest.mark.parametrize(("option", "mode"), [((), 0o600), (("--mode", "660"), 0o660)])
def test_permissions(bundle: Path, option: tuple[str, ...], mode: int) -> None:
    before = os.umask(0o077)
    try:
        with served.serving(bundle, "--shapes", "x:1x8", *option) as server:
            assert stat.S_IMODE(server.path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_sizes_that_a_client_writes_are_not_believed(server: Served) -> None:
    segment = attach(server.name)
    words, place, memory = segment.words, segment.layout.slot(0), segment.memory
    entry = place + segment.layout.inputs[0].entry
    random = np.random.default_rng(0)
    assert words.swap64(place, 0, 1 << 31 | 7)
    try:
        for number in range(300):
            dims = [int(d) for d in random.choice([-1, 0, 1, 8, 16, 17, 2**31, 2**62, -(2**63)], 8)]
            rank, size = (int(v) for v in random.choice([0, 1, 2, 3, 8, 9, 2**32 - 1], 2))
            at.ENTRY.pack_into(memory, entry, int(random.choice([0, 1, 2, 99])), rank, *dims, size)
            words.store64(place + at.SEQUENCE, number)
            words.store64(place + at.SUBMITTED, (1 << 64) - 1)
            words.store32(place + at.SLOT_STATE, at.REQUEST)
            words.add32(at.BELL, 1)
            words.wake(at.BELL)
            while words.load32(place + at.SLOT_STATE) != at.DONE:
                words.wait_until(place + at.SLOT_STATE, place + at.WAITING, at.DONE, 10**9, 0)
            assert words.load64(place + at.ANSWERED) == number
            assert words.load32(place + at.STATUS) == at.BAD_INPUT
    finally:
        words.store64(place, 0)
        segment.close()
    with Client(server.name) as client:
        assert client.run({"x": rows(1)})["y"].shape == (1, 4)


def test_a_forked_child_is_told_to_connect_itself(server: Served) -> None:
    program = """
import os, sys, numpy as np
from edgebig.serve import Client
client = Client(sys.argv[1])
if os.fork() == 0:
    try:
        client.run({"x": np.zeros((1, 8), np.float32)})
    except Exception as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, server.name], env=environment(), capture_output=True, text=True
    )
    message = "this process was forked off after the client was made: make another Client in it\n"
    assert (done.stdout, done.stderr) == (message, "")
