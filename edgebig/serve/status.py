"""What a server's segment tells about it, for people and monitors."""

from __future__ import annotations

from time import monotonic_ns
from typing import Any

import numpy as np

from edgebig.serve import layout as at
from edgebig.serve import segment as segments
from edgebig.serve.slot import is_dead

_STATES = {at.STARTING: "starting", at.SERVING: "serving", at.GONE: "stopped"}
_SLOTS = {at.IDLE: "idle", at.REQUEST: "waiting", at.RUNNING: "running", at.DONE: "done", at.DROPPED: "dropped"}


def status(name: str) -> dict[str, Any]:
    """What the server of that name does, as plain data. Reads only; the server notices nothing.

    Times are in microseconds, their percentiles the upper end of a bin that is a quarter of its doubling wide.

    Raises:
        UsageError: not a name.
        BackendError: no such segment, no right, or another layout.
    """
    segment = segments.attach(name, write=False)
    try:
        words, layout, memory = segment.words, segment.layout, segment.memory
        served = segment.is_served()
        since = words.load64(at.RUNNING_SINCE)
        counts = np.frombuffer(memory, np.uint64, 4, at.CALLS)
        clients: dict[int, dict[str, Any]] = {}
        for number in range(layout.slot_count):
            place = layout.slot(number)
            owner = words.load64(place)
            if owner not in (0, at.TAKEN_BACK):
                client = clients.setdefault(owner, _client(owner))
                client["slots"].append(_SLOTS.get(words.load32(place + at.SLOT_STATE), "unknown"))
        return {
            "name": name,
            "state": _STATES.get(words.load32(at.STATE), "unknown") if served else "dead",
            "pid": segment.header.server_pid,
            "heartbeat_ms": (monotonic_ns() - words.load64(at.HEARTBEAT)) / 1e6,
            "running_ms": (monotonic_ns() - since) / 1e6 if since else None,
            "inputs": [_tensor(tensor) for tensor in layout.inputs],
            "outputs": [_tensor(tensor) for tensor in layout.outputs],
            "bytes": layout.size,
            "slots": layout.slot_count,
            "clients": list(clients.values()),
            **dict(zip(("calls", "refused", "failed", "reclaimed"), map(int, counts), strict=True)),
            "service_us": _percentiles(np.frombuffer(memory, np.uint64, at.BUCKETS, at.SERVICE_TIMES)),
            "round_trip_us": _percentiles(np.frombuffer(memory, np.uint64, at.BUCKETS, at.ROUND_TRIPS)),
        }
    finally:
        segment.close()


def _client(owner: int) -> dict[str, Any]:
    pid = owner & 0xFFFFFFFF
    if pid & at.FOREIGN:
        return {"pid": pid & ~at.FOREIGN, "state": "of another pid namespace", "slots": []}
    return {"pid": pid, "state": "dead" if is_dead(owner) else "alive", "slots": []}


def _tensor(tensor: at.Tensor) -> dict[str, Any]:
    return {**tensor.spec.to_json(), "largest": list(tensor.largest)}


def _percentiles(counts: np.ndarray[Any, np.dtype[np.uint64]]) -> dict[str, float] | None:
    ends = np.cumsum(counts)
    if not ends[-1]:
        return None
    found = {}
    for name, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
        number = int(np.searchsorted(ends, np.ceil(share * float(ends[-1]))))
        found[name] = at.bucket_ends(number) / 1e3
    return found
