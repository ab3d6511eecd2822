"""The web service, by its addresses: answers, batching, overload, errors, metrics."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from example_models import EXAMPLES, reddest

import edgebig

fastapi = pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.usefixtures("scripts")

RNG = np.random.default_rng(0)
ROOT = Path(__file__).resolve().parents[2]


def asked(pixels: np.ndarray[Any, Any], **more: Any) -> dict[str, Any]:
    """A request for the classifier of tiny pictures."""
    tensor = {"name": "pixels", "shape": list(pixels.shape), "datatype": "FP32", "data": pixels.ravel().tolist()}
    return {"inputs": [{**tensor, **more}]}


@pytest.fixture(scope="module")
def classifier(bundle: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of batches of tiny pictures."""
    model = reddest(tmp_path_factory.mktemp("batched") / "reddest.onnx")
    sizes = {f"{end}_shapes": {"pixels": (n, 3, 8, 8)} for end, n in (("min", 1), ("opt", 4), ("max", 16))}
    return bundle("batched", model, **sizes)


@pytest.fixture
def session(classifier: Path) -> Iterator[edgebig.Session]:
    with edgebig.load(classifier) as opened:
        yield opened


def serve(session: Any, requests: Any, **options: Any) -> Any:
    """Runs ``requests(client)`` against the service."""
    from service import make_app

    async def run() -> Any:
        app = make_app(session, "tiny", **options)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
        ):
            return await requests(client)

    return asyncio.run(run())


def test_an_answer_is_that_of_the_session(session: edgebig.Session) -> None:
    pixels = RNG.random((2, 3, 8, 8), np.float32)

    async def requests(client: Any) -> list[Any]:
        return [
            await client.post("/v2/models/tiny/infer", json={**asked(pixels), "id": "7"}),
            await client.post("/v2/models/tiny/infer", json=asked(pixels, data=pixels.tolist())),
            await client.get("/v2/models/tiny"),
            await client.get("/v2/health/live"),
            await client.get("/v2/health/ready"),
            await client.get("/metrics"),
        ]

    flat, nested, described, live, ready, metrics = serve(session, requests)
    expected = session.run({"pixels": pixels})["logits"]
    for answer in (flat, nested):
        (output,) = answer.json()["outputs"]
        assert (output["name"], output["shape"], output["datatype"]) == ("logits", [2, 3], "FP32")
        np.testing.assert_array_equal(np.float32(output["data"]).reshape(2, 3), expected)
    assert flat.json()["id"] == "7" and "id" not in nested.json()
    assert described.json()["inputs"] == [{"name": "pixels", "shape": [-1, 3, 8, 8], "datatype": "FP32"}]
    assert live.status_code == ready.status_code == 200
    assert 'edgebig_calls_total{model="tiny",backend="onnxruntime-cpu"} 2\n' in metrics.text


class Watched:
    """A session that keeps the sizes of the batches that it runs; it waits with the first until it is let go."""

    def __init__(self, session: edgebig.Session) -> None:
        self.inputs, self.outputs, self._session = session.inputs, session.outputs, session
        self.batches: list[int] = []
        self.go = threading.Event()

    def run_async(self, inputs: Any) -> Any:
        self.batches.append(inputs["pixels"].shape[0])
        if len(self.batches) > 1:
            return self._session.run_async(inputs)
        waiting = self._session.run_async(inputs)
        future: Any = type(waiting)()
        threading.Thread(target=lambda: (self.go.wait(10), future.set_result(waiting.result()))).start()
        return future


def test_requests_that_wait_run_as_one_batch(session: edgebig.Session) -> None:
    """While one runs, seven of one picture and one of two come: at most four pictures run at once."""
    pictures = [RNG.random((n, 3, 8, 8), np.float32) for n in (1, 1, 1, 1, 2, 1, 1, 1, 1)]
    watched = Watched(session)

    async def requests(client: Any) -> list[Any]:
        first = asyncio.create_task(client.post("/v2/models/tiny/infer", json=asked(pictures[0])))
        while not watched.batches:
            await asyncio.sleep(0.001)
        others = [asyncio.create_task(client.post("/v2/models/tiny/infer", json=asked(p))) for p in pictures[1:]]
        await asyncio.sleep(0.2)
        watched.go.set()
        return [await task for task in (first, *others)]

    answers = serve(watched, requests, max_batch=4, max_delay=0.0)
    for pixels, answer in zip(pictures, answers, strict=True):
        found = np.float32(answer.json()["outputs"][0]["data"]).reshape(-1, 3)
        np.testing.assert_allclose(found, session.run({"pixels": pixels})["logits"], rtol=1e-6)
    assert watched.batches[0] == 1 and sum(watched.batches) == 10
    assert max(watched.batches) == 4 and len(watched.batches) <= 4


def test_one_bad_request_of_a_batch_does_not_fail_the_others(tmp_path: Path) -> None:
    """A number of a token that the table lacks: the model itself fails, for the whole batch."""
    import onnx
    import runnets

    table = onnx.numpy_helper.from_array(np.arange(8, dtype=np.float32).reshape(4, 2), "table")
    model = runnets.model(
        [onnx.helper.make_node("Gather", ["table", "pixels"], ["rows"])],
        [("pixels", onnx.TensorProto.INT64, ["batch"])],
        [("rows", onnx.TensorProto.FLOAT, ["batch", 2])],
        [table],
    )
    tiny.write_bundle(tmp_path / "b", {"model": model})

    async def requests(client: Any) -> list[Any]:
        bodies = [asked(np.array([n]), datatype="INT64") for n in (0, 3, 99, 1)]
        return await asyncio.gather(*(client.post("/v2/models/tiny/infer", json=body) for body in bodies))

    with edgebig.load(tmp_path / "b", threads=1) as session:
        answers = serve(session, requests, max_batch=4, max_delay=0.5)
        assert [answer.status_code for answer in answers] == [200, 200, 500, 200]
        assert "indices element out of data bounds" in answers[2].json()["detail"]
        found = [answer.json()["outputs"][0]["data"] for answer in answers if answer.status_code == 200]
        assert found == [[0, 1], [6, 7], [2, 3]]
        assert (session.stats().calls, session.stats().errors) == (3, 2), "the batch and the one that it was"


def test_too_many_requests_and_too_slow_ones(session: edgebig.Session) -> None:
    pixels = RNG.random((1, 3, 8, 8), np.float32)
    watched = Watched(session)

    async def requests(client: Any) -> list[int]:
        first = asyncio.create_task(client.post("/v2/models/tiny/infer", json=asked(pixels)))
        while not watched.batches:
            await asyncio.sleep(0.001)
        waiting = [asyncio.create_task(client.post("/v2/models/tiny/infer", json=asked(pixels))) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused = await client.post("/v2/models/tiny/infer", json=asked(pixels))
        assert refused.headers["retry-after"] == "1"
        late = [await task for task in (first, *waiting)]
        watched.go.set()
        good = await client.post("/v2/models/tiny/infer", json=asked(pixels))
        return [refused.status_code, *(answer.status_code for answer in late), good.status_code]

    assert serve(watched, requests, queue=2, timeout=0.5) == [503, 504, 504, 504, 200]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (asked(RNG.random((1, 3, 8, 9), np.float32)), "pixels"),
        (asked(RNG.random((1, 3, 8, 8), np.float32), datatype="FP99"), "there is no datatype 'FP99'"),
        (asked(RNG.random((1, 3, 8, 8), np.float32), datatype="FP64"), "float64"),
        (asked(RNG.random((1, 3, 8, 8), np.float32), shape=[1, 3, 8, 7]), "data does not make FP32 [1, 3, 8, 7]"),
        (asked(RNG.random((1, 3, 8, 8), np.float32), shape=[-1, 3, 8, -1]), "data does not make"),
        (asked(RNG.random((1, 3, 8, 8), np.float32), data=["a"]), "data does not make"),
        (asked(RNG.random((1, 3, 8, 8), np.float32), name="picture"), "picture"),
        ({"inputs": []}, "pixels"),
        (asked(np.zeros((1, 3, 8, 8), np.float32), data=["1"] * 192), "it holds str"),
        (asked(np.zeros((1, 3, 8, 8), np.float32), data=[None] * 192), "it holds object"),
        (asked(np.zeros((1, 3, 8, 8), np.float32), data=[True] * 192), "it holds bool"),
        (asked(np.zeros((1, 3, 8, 8), np.float32), data=[1e300] * 192), "a number that is too large"),
        (asked(np.zeros((1, 3, 8, 8), np.float32), shape=[-1, 3, 8, 8]), "a size is negative"),
        (asked(np.zeros((1, 3, 8, 8), np.float32), data=[1.5] * 192, datatype="INT64"), "it holds float64"),
        ({"inputs": asked(np.zeros((1, 3, 8, 8), np.float32))["inputs"] * 2}, "an input is given twice"),
        ({**asked(np.zeros((1, 3, 8, 8), np.float32)), "outputs": [{"name": "z"}]}, "no output 'z': the model gives"),
        ({}, "the request: inputs: Field required"),
    ],
)
def test_bad_requests_are_told_what_is_wrong(session: edgebig.Session, request_: Any, said: str) -> None:
    good = asked(RNG.random((1, 3, 8, 8), np.float32))

    async def requests(client: Any) -> Any:
        return [await client.post("/v2/models/tiny/infer", json=r) for r in (request_, good)]

    bad, after = serve(session, requests)
    assert bad.status_code == 400 and said in bad.json()["detail"] and "\n" not in bad.json()["detail"]
    assert after.status_code == 200


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the request: it: Invalid JSON: EOF while parsing"),
        (b"", "the request: it: Invalid JSON: EOF while parsing"),
        (b"\xff\xfe", "the request: it: Invalid JSON: "),
        (b"[" * 100_000, "the request: it: Invalid JSON: recursion limit exceeded"),
        (b"[]", "the request: it: Input should be an object"),
    ],
)
def test_what_is_no_request_is_told_so(session: edgebig.Session, body: bytes, said: str) -> None:
    async def requests(client: Any) -> Any:
        return await client.post("/v2/models/tiny/infer", content=body)

    answer = serve(session, requests)
    assert answer.status_code == 400 and answer.json()["detail"].startswith(said)
    assert len(answer.content) < 200, "the body is not sent back"


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_large_body_is_refused_before_it_is_in_memory(session: edgebig.Session, is_announced: bool) -> None:
    pieces = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal pieces
        for _ in range(100):
            pieces += 1
            yield b" " * 1000

    async def requests(client: Any) -> list[Any]:
        content = b" " * 100_000 if is_announced else body()
        return [await client.post("/v2/models/tiny/infer", content=content), await client.get("/v2/models/tiny")]

    refused, after = serve(session, requests, max_body=10_000)
    assert (refused.status_code, refused.json()) == (413, {"detail": "a request may have 10000 bytes"})
    assert after.status_code == 200 and pieces <= 11


_STOPPED = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
sys.argv = ["service.py", *sys.argv[2:]]
runpy.run_path(f"{sys.path[0]}/service.py", run_name="__main__")
"""


def test_a_client_that_stands_still_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    """And a bundle that names no usual shapes starts, without a warm-up."""
    tiny.write_bundle(tmp_path / "tiny.bundle", {"model": tiny.add_one()})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--port", str(port), "--threads", "1", "--timeout", "1"]
    program = [sys.executable, "-c", _STOPPED, str(EXAMPLES), str(tmp_path / "tiny.bundle"), *options]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            end = time.monotonic() + 60
            while True:
                try:
                    stuck = socket.create_connection(("127.0.0.1", port))
                    break
                except ConnectionRefusedError:
                    assert process.poll() is None and time.monotonic() < end
                    time.sleep(0.05)
            with stuck:
                stuck.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
                time.sleep(0.3)
                process.send_signal(signal.SIGTERM)
                assert process.wait(20) == -signal.SIGTERM
        finally:
            process.kill()
