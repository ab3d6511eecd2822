"""A server that runs several requests at once."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
import served
from cli_runner import run_process
from served import rows

from edgebig.runtime import load
from edgebig.serve import Client, status


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    served.needs_compiled_module()


def test_workers_run_requests_at_once(slow: Path) -> None:
    x, order = np.full((200, 200), 0.01, np.float32), []
    with served.serving(slow, "--slots", "3", "--workers", "2") as server, Client(server.name) as client:

        def call(rounds: int) -> None:
            client.run({"n": np.array(rounds), "x": x}, timeout=60)
            order.append(rounds)

        long = threading.Thread(target=call, args=(6000,))
        long.start()
        assert served.until(lambda: status(server.name)["running_ms"] is not None)
        for _ in range(50):
            call(0)
        assert status(server.name)["clients"][0]["slots"] == ["running"]
        long.join()
    assert order == [0] * 50 + [6000]


def test_each_slot_gets_its_own_answer_from_several_workers(bundle: Path) -> None:
    with (
        load(bundle, threads=1) as session,
        served.serving(bundle, "--shapes", "x:16x8", "--workers", "3") as server,
        Client(server.name) as client,
    ):
        expected = [session.run({"x": rows(3, seed)})["y"] for seed in range(6)]
        wrong: list[int] = []

        def work(seed: int) -> None:
            for _ in range(100):
                if not np.array_equal(client.run({"x": rows(3, seed)}, timeout=60)["y"], expected[seed]):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = status(server.name)
    assert wrong == []
    assert (found["calls"], found["failed"], found["refused"], found["running_ms"]) == (600, 0, 0, None)


def test_more_workers_than_slots_are_refused(bundle: Path) -> None:
    done = run_process(
        "serve", bundle, "--shm", served.new_name(), "--shapes", "x:1x8", "--slots", "2", "--workers", "3"
    )
    message = "3 workers never have work at 2 slots: give more --slots"
    assert (done.code, done.err) == (2, f"edgebig: error: {message}\n")
