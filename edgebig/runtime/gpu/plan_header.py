"""The first bytes of a serialized engine, which say who built it. Nothing is deserialized."""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER_BYTES = 28
"""What :func:`plan_header` reads."""

_TAGS = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}


@dataclass(frozen=True)
class PlanHeader:
    """What a plan says of itself.

    Attributes:
        kind: ``tensorrt`` or ``tensorrt-rtx``.
        version: major, minor, patch and build number: ``10.3.0.30``.
    """

    kind: str
    version: str


def plan_header(data: bytes) -> PlanHeader | None:
    """What an engine's first bytes say; ``None`` where they have no known layout.

    As ``trtexec --getPlanVersionOnly`` reads it (NVIDIA/TensorRT, samples/common/sampleEngines.cpp): the tag ``ftrt``,
    a serialization version of 0, and at byte 24 four bytes of version. TensorRT-RTX 1.7.1 writes the same with the tag
    ``vtrt``.
    """
    kind = _TAGS.get(data[:4])
    if kind is None or len(data) < HEADER_BYTES or struct.unpack_from("<I", data, 4)[0] != 0:
        return None
    return PlanHeader(kind, ".".join(map(str, data[24:28])))
