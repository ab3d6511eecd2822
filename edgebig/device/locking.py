"""One process at a time: a lock that the kernel takes back when its holder ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgebig.errors import OutputError

_NO_FOLDERS = {errno.EBADF, errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP, errno.EACCES, errno.EISDIR}
_EVERY = 0.2


@contextmanager
def only_one(folder: Path, fallback: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a folder (``flock``), waiting for whoever holds it.

    The folder itself is locked, which also works where it cannot be written. File systems that lock no folders (NFS)
    get a file at ``fallback`` instead. There is nothing to clean up after a crash: the kernel drops the lock.

    Args:
        folder: what to lock.
        fallback: a file to lock instead; made where it is needed.
        on_wait: called once, if somebody else holds the lock.

    Raises:
        OutputError: neither can be locked.
    """
    try:
        descriptor = _locked(folder, os.O_RDONLY, on_wait)
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise OutputError(f"cannot lock {folder}: {error.strerror}") from error
        try:
            fallback.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _locked(fallback, os.O_RDWR | os.O_CREAT, on_wait)
        except OSError as second:
            raise OutputError(
                f"cannot lock {folder}, whose file system locks no folders, nor {fallback}: {second.strerror}: name a "
                "folder that can be written with EDGEBIG_ENGINES"
            ) from second
    try:
        yield
    finally:
        os.close(descriptor)


def _locked(path: Path, flags: int, on_wait: Callable[[], None]) -> int:
    descriptor = os.open(path, flags, 0o644)
    try:
        _take(descriptor, on_wait)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _take(descriptor: int, on_wait: Callable[[], None]) -> None:
    told = False
    while True:  # not a blocking call: Ctrl-C must end the wait
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if not told:
                on_wait()
                told = True
            time.sleep(_EVERY)
