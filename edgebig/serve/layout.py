"""Where everything lies in a shared-memory segment: version 1 of the layout that docs/shared-memory.md describes.

The same numbers are in ``examples/c/edgebig_shm.h``; a test compares them.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edgebig.errors import UsageError
from edgebig.spec import TensorSpec

MAGIC = b"EBIGSHM\0"
VERSION = 1
BYTE_ORDER = 0x01020304
ALIGN = 64
MAX_RANK = 8
LARGEST = 1 << 40

# The header's fields. What is never written again after the start comes first; then each line of 64 bytes is
# written by one side, or rarely.
FIXED = struct.Struct("=8sIIQQIIIIQQIIIIQQIIQ")  # of Fixed
BELL, SLEEPING = 192, 196
RELEASED, WANTING = 256, 260
STATE, HEARTBEAT, RUNNING_SINCE = 320, 328, 336
CALLS, REFUSED, FAILED, RECLAIMED = 384, 392, 400, 408
SERVICE_TIMES, ROUND_TRIPS = 448, 1472
BUCKETS = 128
HEADER_SIZE = 2496

STARTING, SERVING, GONE = 0, 1, 2

# A tensor's descriptor.
TENSOR = struct.Struct("=IIII8q8qQQQQ")
TENSOR_STRIDE = 192

# A slot's fields, and one entry for each tensor in it.
OWNER, SLOT_STATE, WAITING, SEQUENCE, ANSWERED = 0, 8, 12, 16, 24
SUBMITTED, RUN_TIME, STATUS, MESSAGE_LENGTH = 32, 40, 48, 52
ENTRIES = 64
ENTRY = struct.Struct("=II8qQ")
MESSAGE_SIZE = 512

IDLE, REQUEST, RUNNING, DONE, DROPPED = 0, 1, 2, 3, 4
TAKEN_BACK = (1 << 64) - 1
FOREIGN = 1 << 31
OK, BAD_INPUT, BACKEND_FAILED, OUTPUT_TOO_LARGE, SERVER_STOPPED = 0, 1, 2, 3, 4

# ONNX's TensorProto.DataType.
DTYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "uint16": 4,
    "int16": 5,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
    "uint32": 12,
    "uint64": 13,
}
NAMES = {code: name for name, code in DTYPES.items()}

Shape = tuple[int, ...]


class Fixed(NamedTuple):
    """The header's fields that are written once; docs/shared-memory.md explains each."""

    magic: bytes
    version: int
    byte_order: int
    segment_size: int
    instance: int
    header_size: int
    tensor_stride: int
    input_count: int
    output_count: int
    slots_offset: int
    slot_stride: int
    slot_count: int
    entries_offset: int
    message_offset: int
    message_size: int
    names_offset: int
    names_size: int
    server_pid: int
    pid_namespace: int
    server_start: int


@dataclass(frozen=True)
class Tensor:
    """One input or output in the slots.

    Attributes:
        spec: its name, dtype and shape.
        largest: the largest shape that there is room for.
        offset, capacity: where it lies in a slot, and for how many bytes there is room there.
        entry: where in a slot its dtype and shape of this call are.
    """

    spec: TensorSpec
    largest: Shape
    offset: int
    capacity: int
    entry: int

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Its elements' type."""
        return np.dtype(self.spec.dtype)


@dataclass(frozen=True)
class Layout:
    """Sizes and places in a segment, all in bytes from its start or, within slots, from the slot's."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    slot_count: int
    names_offset: int
    names_size: int
    slots_offset: int
    slot_stride: int
    message: int
    size: int

    def slot(self, number: int) -> int:
        """Where a slot begins."""
        return self.slots_offset + number * self.slot_stride

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Inputs, then outputs."""
        return (*self.inputs, *self.outputs)


def plan(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], largest: Sequence[Shape], slots: int) -> Layout:
    """The layout for a model.

    Args:
        inputs, outputs: the model's.
        largest: the largest shape of each input, then of each output.
        slots: how many requests may be under way at once.

    Raises:
        UsageError: a dtype or rank that the layout lacks, or sizes beyond 1 TB.
    """
    specs = (*inputs, *outputs)
    for spec in specs:
        if spec.dtype not in DTYPES:
            raise UsageError(f"{spec} cannot lie in shared memory: the dtypes there are {', '.join(DTYPES)}")
        if len(spec.shape) > MAX_RANK:
            raise UsageError(f"{spec} has {len(spec.shape)} axes: shared memory takes at most {MAX_RANK}")
    message = ENTRIES + len(specs) * ENTRY.size
    place = up(message + MESSAGE_SIZE)
    tensors = []
    for number, spec in enumerate(specs):
        capacity = up(math.prod(largest[number]) * np.dtype(spec.dtype).itemsize)
        tensors.append(Tensor(spec, tuple(largest[number]), place, capacity, ENTRIES + number * ENTRY.size))
        place += capacity
    names = HEADER_SIZE + len(specs) * TENSOR_STRIDE
    names_size = sum(len(spec.name.encode()) + 1 for spec in specs)
    start = up(names + names_size, 4096)
    size = up(start + place * slots, 4096)
    if size > LARGEST:
        raise UsageError(f"the slots would take {size / 1e9:.0f} GB: give smaller --shapes, or fewer --slots")
    count = len(inputs)
    return Layout(tuple(tensors[:count]), tuple(tensors[count:]), slots, names, names_size, start, place, message, size)


def up(size: int, to: int = ALIGN) -> int:
    """The next multiple."""
    return -(-size // to) * to


def entry(dtype: str, shape: Shape) -> bytes:
    """What a slot says of a tensor of this call."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return ENTRY.pack(DTYPES[dtype], len(shape), *shape, *[0] * (MAX_RANK - len(shape)), size)


def bucket_ends(number: int) -> int:
    """The least time in nanoseconds that lies in a later bin."""
    octave, quarter = divmod(number + 1, 4)
    return (4 + quarter) << octave << 6
