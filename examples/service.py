"""A web service for a bundle, by the Open Inference Protocol (KServe v2) with JSON.

    edgebig compile sentence-transformers/all-MiniLM-L6-v2 -o minilm.bundle --target l4 --recipe sentence-embedding
    python examples/service.py minilm.bundle --port 8000 --max-batch 16

    GET  /v2/health/live, /v2/health/ready      whether the process lives, whether it takes requests
    GET  /v2/models/NAME                        inputs and outputs
    POST /v2/models/NAME/infer                  {"inputs": [{"name": …, "shape": …, "datatype": "FP32", "data": […]}]}
    GET  /metrics                               for Prometheus

Requests that come at nearly the same time run as one batch. Needs ``fastapi`` and ``uvicorn``. It has no
authentication: put it behind what has.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import fastapi
import numpy as np
import uvicorn
from batching import Batcher, Overloaded
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel, ValidationError

import edgebig
from edgebig import Session
from edgebig.errors import EdgebigError, InputError, UsageError
from edgebig.runtime.telemetry import prometheus_text
from edgebig.spec import TensorSpec

DATATYPES = {
    "BOOL": "bool", "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "INT8": "int8",
    "INT16": "int16", "INT32": "int32", "INT64": "int64", "FP16": "float16", "FP32": "float32", "FP64": "float64",
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DATATYPES.items()}
_FROM = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""Kinds of NumPy's types that JSON's values may be of, for each kind that is asked."""


class SmallBodies:
    """An ASGI layer that refuses large bodies before they are in memory, whether or not their length was announced."""

    def __init__(self, app: Any, most: int) -> None:
        self._app, self._most = app, most

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes on what is small."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said, taken = f"a request may have {self._most} bytes", 0

        async def counted() -> Any:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._most:
                raise HTTPException(413, said, {"Connection": "close"})
            return message

        if int(dict(scope["headers"]).get(b"content-length", b"0")) > self._most:
            await JSONResponse({"detail": said}, 413, {"Connection": "close"})(scope, receive, send)
        else:
            await self._app(scope, counted, send)


class Tensor(BaseModel):
    """A tensor of a request or of an answer; ``data`` is flat or nested, in row-major order."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class Output(BaseModel):
    """An output that a client wants."""

    name: str


class Request(BaseModel):
    """What a client asks; without ``outputs``, all of them."""

    id: str | None = None
    inputs: list[Tensor]
    outputs: list[Output] | None = None


def make_app(
    session: Session,
    name: str,
    *,
    max_batch: int = 8,
    max_delay: float = 0.002,
    queue: int = 64,
    timeout: float = 30.0,
    max_body: int = 64 << 20,
) -> FastAPI:
    """The service; whoever opened the session closes it.

    Args:
        session: the loaded model.
        name: the model's name in the addresses.
        max_batch, max_delay, queue: as for :class:`batching.Batcher`.
        timeout: seconds after which a client gets 504.
        max_body: bytes of a request at most; a larger one gets 413 before it is in memory.
    """
    state: dict[str, Batcher] = {}

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        state["batcher"] = Batcher(session, max_batch=max_batch, max_delay=max_delay, queue=queue)
        yield
        await state.pop("batcher").close()

    app = FastAPI(title=f"edgebig: {name}", lifespan=life)
    app.add_middleware(SmallBodies, most=max_body)

    @app.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    @app.get(f"/v2/models/{name}/ready")
    async def ready() -> dict[str, bool]:
        if "batcher" not in state:
            raise HTTPException(503, "not ready")
        return {"ready": True}

    @app.get(f"/v2/models/{name}")
    async def metadata() -> dict[str, Any]:
        inputs, outputs = ([_described(spec) for spec in specs] for specs in (session.inputs, session.outputs))
        return {"name": name, "platform": session.backend, "inputs": inputs, "outputs": outputs}

    @app.get("/metrics")
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(prometheus_text({name: session}), media_type="text/plain; version=0.0.4")

    @app.post(f"/v2/models/{name}/infer")
    async def infer(http: fastapi.Request) -> dict[str, Any]:
        try:
            request = _request(await http.body())
            inputs = {tensor.name: _array(tensor) for tensor in request.inputs}
            if len(inputs) < len(request.inputs):
                raise InputError("an input is given twice")
            wanted = _wanted(request.outputs, [spec.name for spec in session.outputs])
            outputs = await asyncio.wait_for(state["batcher"](inputs), timeout)
        except InputError as error:
            raise HTTPException(400, str(error)) from error
        except Overloaded as error:
            raise HTTPException(503, str(error), {"Retry-After": "1"}) from error
        except asyncio.TimeoutError as error:
            raise HTTPException(504, f"no answer within {timeout:g} s") from error
        except EdgebigError as error:
            raise HTTPException(500, str(error)) from error
        answer = {"model_name": name, "outputs": [_tensor(key, outputs[key]) for key in wanted]}
        return answer if request.id is None else {**answer, "id": request.id}

    return app


def _request(body: bytes) -> Request:
    try:
        return Request.model_validate_json(body)
    except ValidationError as error:  # whose own text repeats the body
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        raise InputError(f"the request: {'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}") from error


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    dtype = DATATYPES.get(tensor.datatype)
    if dtype is None:
        raise InputError(
            f"input {tensor.name!r}: there is no datatype {tensor.datatype!r}: it is {', '.join(DATATYPES)}"
        )
    try:
        found = np.asarray(tensor.data)
        if found.size and found.dtype.kind not in _FROM[np.dtype(dtype).kind]:  # 1.5 is no INT64, null no number
            raise ValueError(f"it holds {found.dtype.name}")
        with np.errstate(over="ignore"):
            array = np.asarray(tensor.data, dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError("it holds NaN, infinity or a number that is too large")
        if any(size < 0 for size in tensor.shape):
            raise ValueError("a size is negative")
        return array.reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(
            f"input {tensor.name!r}: data does not make {tensor.datatype} {tensor.shape}: {error}"
        ) from error


def _wanted(asked: list[Output] | None, outputs: list[str]) -> list[str]:
    wanted = outputs if asked is None else [output.name for output in asked]
    unknown = [name for name in wanted if name not in outputs]
    if unknown:
        raise InputError(f"no output {unknown[0]!r}: the model gives {', '.join(outputs)}")
    return wanted


def _tensor(name: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise HTTPException(500, f"output {name!r} holds NaN or infinity, which JSON cannot say")
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": NAMES[array.dtype.name],
        "data": array.ravel().tolist(),
    }


def _described(spec: TensorSpec) -> dict[str, Any]:
    shape = [size if isinstance(size, int) else -1 for size in spec.shape]
    return {"name": spec.name, "shape": shape, "datatype": NAMES.get(spec.dtype, spec.dtype)}


def main() -> None:
    """Serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--name", help="of the model in the addresses (the bundle's)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-batch", type=int, default=8, help="rows of one run at most (8)")
    parser.add_argument("--max-delay", type=float, default=2.0, help="milliseconds that a request waits for others (2)")
    parser.add_argument("--queue", type=int, default=64, help="requests that may wait (64)")
    parser.add_argument("--timeout", type=float, default=30.0, help="seconds after which a client gets 504 (30)")
    parser.add_argument("--threads", type=int, help="threads that one run may use (default: the engine's choice)")
    parser.add_argument("--max-body", type=int, default=64, help="megabytes of a request at most (64)")
    arguments = parser.parse_args()
    name = arguments.name or arguments.bundle.name.removesuffix(".bundle")
    with edgebig.load(arguments.bundle, threads=arguments.threads) as session:
        with suppress(UsageError):  # a bundle that names no usual shapes
            session.warm_up()
        app = make_app(
            session,
            name,
            max_batch=arguments.max_batch,
            max_delay=arguments.max_delay / 1e3,
            queue=arguments.queue,
            timeout=arguments.timeout,
            max_body=arguments.max_body << 20,
        )
        # a client that stands still in the middle of a request does not keep the service from ending
        patience = math.ceil(arguments.timeout)
        uvicorn.run(app, host=arguments.host, port=arguments.port, timeout_graceful_shutdown=patience)


if __name__ == "__main__":
    try:
        main()
    except EdgebigError as error:
        sys.exit(f"error: {error}")
