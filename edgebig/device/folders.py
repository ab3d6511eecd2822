"""The folders that a finish writes into: whether it can, who may, and what an interrupted one left there."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from edgebig.bundle import FINISHED, Bundle
from edgebig.device.locking import only_one
from edgebig.device.store import Store, engines_folder
from edgebig.errors import BundleError


def hold(bundle: Bundle, held: ExitStack, say: Callable[[str], None]) -> None:
    """Locks the bundle; where it cannot be written also its folder of the store, which equal bundles share.

    Args:
        bundle: that is finished.
        held: what keeps the locks.
        say: told where another process has one.

    Raises:
        BundleError: as :func:`is_open`.
        OutputError: as :func:`edgebig.device.locking.only_one`.
    """

    def lock(folder: Path) -> None:
        fallback = engines_folder() / f"{re.sub(r'[^A-Za-z0-9]+', '-', str(folder.resolve()))[-100:]}.lock"
        held.enter_context(
            only_one(folder, fallback, lambda: say(f"another process is finishing {bundle.path}: waiting for it"))
        )

    lock(bundle.path)
    if is_open(bundle):
        return
    store = Store(bundle)
    with suppress(OSError):  # whoever builds is told
        store.make()
    if is_writable(store.folder):
        lock(store.folder)
        store.clean()


def is_open(bundle: Bundle) -> bool:
    """Whether engines can be put into the bundle.

    Raises:
        BundleError: ``finished/`` leads outside it: no engine of it would be loaded.
    """
    own = bundle.path / FINISHED
    if own.exists() and not own.resolve().is_relative_to(bundle.path.resolve()):
        raise BundleError(f"{bundle.path}: {FINISHED} leads outside the bundle: remove the link")
    return is_writable(bundle.path) and (not own.exists() or is_writable(own))


def is_writable(folder: Path) -> bool:
    """Whether files can be made there; on a read-only file system not even by root."""
    return os.access(folder, os.W_OK | os.X_OK)


def clean(bundle: Bundle) -> None:
    """Removes what an interrupted finish left in ``finished/``, which may be large. The lock is held."""
    for file in (bundle.path / FINISHED).glob("*"):
        if f"{FINISHED}{file.name}" not in bundle.manifest.files:
            with suppress(OSError):
                file.unlink()
