"""A shared-memory segment as a file of /dev/shm: made whole or not at all, by one server for each name."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
import struct
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from edgebig.errors import BackendError, OutputError, UsageError
from edgebig.serve import layout as at
from edgebig.serve.layout import Layout, Tensor
from edgebig.spec import TensorSpec

FOLDER = Path("/dev/shm")
PREFIX = "edgebig."
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_FLOCK = struct.Struct("hhqqi0q")  # struct flock of 64-bit Linux: type, whence, start, length, pid
_PAUSE = 0.02
_TRIES = 25


def shared_words() -> ModuleType:
    """The compiled module with the atomic words.

    Raises:
        BackendError: edgebig was installed without it.
    """
    try:
        import edgebig.serve._shared as compiled
    except ImportError as error:
        raise BackendError(
            f"shared memory needs edgebig's compiled module, which this installation lacks ({error}): "
            "install edgebig again on 64-bit Linux where a C compiler is"
        ) from error
    return compiled


def path_of(name: str) -> Path:
    """The segment's file.

    Raises:
        UsageError: not a name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"--shm takes a name of letters, digits, '_', '-' and '.', at most 200, found {name!r}")
    return FOLDER / f"{PREFIX}{name}"


class Segment:
    """A mapped segment.

    Attributes:
        memory: all of it. NumPy arrays over it keep it mapped.
        words: its atomic words.
        layout: where things are; of an opened segment, read once and checked against the file's size.
        instance: a random number, another one for each server.
    """

    def __init__(self, file: int, layout: Layout, memory: mmap.mmap, words: Any, instance: int) -> None:
        self.file, self.layout, self.memory, self.words, self.instance = file, layout, memory, words, instance

    @property
    def header(self) -> at.Fixed:
        """What the server wrote once, at its start."""
        return at.Fixed._make(at.FIXED.unpack_from(self.memory))

    def is_served(self) -> bool:
        """Whether the process that made it still lives: the kernel drops its lock with it, however it ends."""
        asked = fcntl.fcntl(self.file, fcntl.F_GETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return bool(_FLOCK.unpack(asked)[0] != fcntl.F_UNLCK)

    def close(self) -> None:
        """Drops the file and, of a server, its lock; the memory goes with the last array over it."""
        if self.file >= 0:  # the memory's own copy of the descriptor would keep the lock
            fcntl.fcntl(self.file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))
            os.close(self.file)
            self.file = -1
        self.words.release()


def create(name: str, layout: Layout, mode: int) -> Segment:
    """Makes the segment of a server, locked, which everybody sees at once as a whole or not at all.

    The segment of a server that was killed is marked as gone, which its clients see, and replaced.

    Args:
        name: the server's.
        layout: what to make.
        mode: permissions of its file (``0o600``).

    Raises:
        UsageError: not a name.
        BackendError: the compiled module is missing.
        OutputError: another server has the name, no room, or no right.
    """
    path, words = path_of(name), shared_words()
    try:
        file = os.open(FOLDER, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError as error:
        raise OutputError(f"cannot make shared memory in {FOLDER}: {error.strerror}") from error
    try:
        os.fchmod(file, mode)
        _allocate(file, layout.size)
        _lock(file)
        memory = mmap.mmap(file, layout.size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        instance = secrets.randbits(64)
        _write_header(memory, layout, instance)
        segment = Segment(file, layout, memory, words.Words(memory), instance)
        for _ in range(_TRIES):
            try:
                # src_dir_fd is not looked at, but without it Python calls link(2), which does not follow the link
                os.link(f"/proc/self/fd/{file}", path, src_dir_fd=file, follow_symlinks=True)
                return segment
            except FileExistsError:
                _remove_dead(path, name)
        raise OutputError(f"{path} comes back whenever it is removed: choose another --shm")
    except OSError as error:
        os.close(file)
        raise OutputError(f"cannot make {path}: {error.strerror}") from error
    except BaseException:
        os.close(file)
        raise


def remove(name: str, segment: Segment) -> None:
    """Takes the name away, unless another server has it by now, and closes the segment."""
    path = path_of(name)
    try:
        if os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(segment.file)):
            os.unlink(path)
    except OSError:  # someone else removed it
        pass
    segment.close()


def attach(name: str, *, write: bool = True) -> Segment:
    """Maps the segment of a running or dead server.

    Args:
        name: the server's.
        write: whether to map it for a client; otherwise a private copy is mapped, which no write leaves.

    Raises:
        UsageError: not a name.
        BackendError: no such segment, no right, or not a layout of this version; or the compiled module is missing.
    """
    path, words = path_of(name), shared_words()
    try:
        file = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise BackendError(f"no server has the name {name!r}: start 'edgebig serve BUNDLE --shm {name}'") from error
    except OSError as error:
        raise BackendError(f"cannot open {path}: {error.strerror}") from error
    try:
        size = os.fstat(file).st_size
        if size < at.HEADER_SIZE:
            raise BackendError(f"{path} is no segment of edgebig: it has {size} bytes")
        # a private mapping shows what others write, as long as it is not populated, which would copy it
        memory = mmap.mmap(file, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE if write else mmap.MAP_PRIVATE)
        layout, instance = read_layout(memory, size, str(path))
        return Segment(file, layout, memory, words.Words(memory), instance)
    except BaseException:
        os.close(file)
        raise


def read_layout(memory: mmap.mmap | bytes, size: int, name: str) -> tuple[Layout, int]:
    """The layout and the instance that a header states.

    Raises:
        BackendError: another magic, version or byte order, or something that lies outside of ``size``.
    """
    h = at.Fixed._make(at.FIXED.unpack_from(memory, 0))
    if h.magic != at.MAGIC:
        raise BackendError(f"{name} is no segment of edgebig: it begins with {h.magic!r}")
    if h.byte_order != at.BYTE_ORDER:
        raise BackendError(f"{name} has another byte order (0x{h.byte_order:08x})")
    if h.version != at.VERSION:
        raise BackendError(
            f"{name} has version {h.version} of the layout, this is edgebig for version {at.VERSION}: "
            "use the same edgebig on both sides"
        )
    total = h.input_count + h.output_count
    least, stride = at.ENTRIES + total * at.ENTRY.size, h.slot_stride
    fits = (
        h.segment_size == size
        and h.tensor_stride == at.TENSOR_STRIDE
        and at.HEADER_SIZE <= h.header_size <= size - total * at.TENSOR_STRIDE
        and h.names_offset + h.names_size <= size
        and h.entries_offset == at.ENTRIES
        and h.message_size == at.MESSAGE_SIZE
        and least <= h.message_offset <= stride - at.MESSAGE_SIZE
        and h.slots_offset % at.ALIGN == stride % at.ALIGN == 0
        and h.slot_count > 0
        and h.slots_offset + h.slot_count * stride <= size
    )
    if not fits:
        raise BackendError(f"{name} is damaged: its header does not fit its {size} bytes")
    end = h.names_offset + h.names_size
    tensors = tuple(
        _read_tensor(memory, h.header_size + i * at.TENSOR_STRIDE, i, stride, end, name) for i in range(total)
    )
    ins, outs = tensors[: h.input_count], tensors[h.input_count :]
    places = (h.slot_count, h.names_offset, h.names_size, h.slots_offset, stride, h.message_offset, size)
    return Layout(ins, outs, *places), h.instance


def _read_tensor(memory: mmap.mmap | bytes, place: int, number: int, step: int, end: int, name: str) -> Tensor:
    where, length, code, rank, *numbers = at.TENSOR.unpack_from(memory, place)
    offset, capacity = numbers[16:18]
    good = code in at.NAMES and rank <= at.MAX_RANK and where + length <= end and offset % at.ALIGN == 0
    if not good or offset + capacity > step:
        raise BackendError(f"{name} is damaged: its tensor {number} lies outside of a slot")
    text = bytes(memory[where : where + length]).decode(errors="replace")
    dims = tuple(None if d < 0 else d for d in numbers[:rank])
    spec = TensorSpec(text, at.NAMES[code], dims)
    return Tensor(spec, tuple(numbers[8 : 8 + rank]), offset, capacity, at.ENTRIES + number * at.ENTRY.size)


def _write_header(memory: mmap.mmap, layout: Layout, instance: int) -> None:
    pid = os.getpid()
    header = at.Fixed(
        magic=at.MAGIC,
        version=at.VERSION,
        byte_order=at.BYTE_ORDER,
        segment_size=layout.size,
        instance=instance,
        header_size=at.HEADER_SIZE,
        tensor_stride=at.TENSOR_STRIDE,
        input_count=len(layout.inputs),
        output_count=len(layout.outputs),
        slots_offset=layout.slots_offset,
        slot_stride=layout.slot_stride,
        slot_count=layout.slot_count,
        entries_offset=at.ENTRIES,
        message_offset=layout.message,
        message_size=at.MESSAGE_SIZE,
        names_offset=layout.names_offset,
        names_size=layout.names_size,
        server_pid=pid,
        pid_namespace=pid_namespace(),
        server_start=started(pid) or 0,
    )
    at.FIXED.pack_into(memory, 0, *header)
    place = layout.names_offset
    for number, tensor in enumerate(layout.tensors):
        name = tensor.spec.name.encode()
        dims = [d if isinstance(d, int) else -1 for d in tensor.spec.shape]
        rest = [0] * (at.MAX_RANK - len(dims))
        numbers = (*dims, *rest, *tensor.largest, *rest, tensor.offset, tensor.capacity, 0, 0)
        where = at.HEADER_SIZE + number * at.TENSOR_STRIDE
        at.TENSOR.pack_into(memory, where, place, len(name), at.DTYPES[tensor.spec.dtype], len(dims), *numbers)
        memory[place : place + len(name)] = name
        place += len(name) + 1


def _allocate(file: int, size: int) -> None:
    """Takes all pages now: a full /dev/shm is an error here, not a SIGBUS in some later copy."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        have = os.statvfs(FOLDER)
        raise OutputError(
            f"{FOLDER} has {have.f_bavail * have.f_frsize / 1e6:.0f} MB left, the slots need {size / 1e6:.1f} MB: give "
            "fewer --slots or smaller --shapes, or make it larger (docker run --shm-size)"
        ) from error


def _lock(file: int) -> bool:
    """Takes the lock of a segment's server, which belongs to the open file, not to the process."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return True
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return False


def _remove_dead(path: Path, name: str) -> None:
    """Removes the segment of a killed server and tells those that still have it open.

    Raises:
        OutputError: its server lives.
    """
    try:
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        if not _lock(file):
            raise OutputError(f"a server with the name {name!r} runs already: stop it, or choose another --shm")
        if not os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(file)):
            return  # another one has replaced it meanwhile
        if os.fstat(file).st_size >= at.HEADER_SIZE:
            with mmap.mmap(file, at.HEADER_SIZE) as memory:
                memory[at.STATE : at.STATE + 4] = struct.pack("=I", at.GONE)
        os.unlink(path)
    except FileNotFoundError:
        time.sleep(_PAUSE)
    finally:
        os.close(file)


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine's start; ``None`` if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])  # fields 3 and 22 of proc(5)


def pid_namespace() -> int:
    """The inode of this process's namespace of process numbers; 0 where the kernel tells none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino & 0xFFFFFFFF
    except OSError:
        return 0
