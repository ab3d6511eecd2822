"""The web service, by its addresses: answers, batching, overload, errors, metrics."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_models import reddest

import edgebig

fastapi = pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

pytestmark = pytest.mark.usefixtures("scripts")

RNG = np.random.default_rng(0)


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
    ],
)
def test_bad_requests_are_told_what_is_wrong(session: edgebig.Session, request_: Any, said: str) -> None:
    good = asked(RNG.random((1, 3, 8, 8), np.float32))

    async def requests(client: Any) -> Any:
        return [await client.post("/v2/models/tiny/infer", json=r) for r in (request_, good)]

    bad, after = serve(session, requests)
    assert bad.status_code == 400 and said in bad.json()["detail"] and "\n" not in bad.json()["detail"]
    assert after.status_code == 200
