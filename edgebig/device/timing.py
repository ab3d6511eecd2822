"""The device's timing caches: which there are, and how they go to the other devices of a fleet."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgebig.build.timing_cache import SUFFIX, TimingCache, TimingKey, read_timing
from edgebig.compatibility import Machine
from edgebig.device.history import timing_folder
from edgebig.errors import OutputError, UsageError

_ABANDONED = 3600.0
"""Seconds after which nobody writes a file any more that was begun."""


@dataclass(frozen=True)
class TimingEntry:
    """One timing cache of this device.

    Attributes:
        path: its file.
        key: what it holds for; ``None`` where the file is damaged.
        bytes: what TensorRT wrote.
        pending: files that were imported and that the next build joins.
        problem: what is wrong with the file; empty where nothing is.
    """

    path: Path
    key: TimingKey | None
    bytes: int
    pending: int = 0
    problem: str = ""

    @property
    def name(self) -> str:
        """As the commands take it."""
        return self.path.name.removesuffix(SUFFIX)

    def serves(self, flavour: str, version: str, device: str) -> bool:
        """Whether builds of that builder on that device read it, with some set of flags."""
        key = self.key
        return key is not None and (key.flavour, key.version, key.device) == (flavour, version, device)


def device_key(machine: Machine) -> str:
    """What tells two unequal devices apart: ``Jetson AGX Orin, 8.7``."""
    return f"{machine.device}, {machine.capability}"


def timing_entries(folder: Path | None = None) -> list[TimingEntry]:
    """The timing caches below ``folder``, this device's by default, by name."""
    found = []
    for path in sorted((folder or timing_folder()).glob(f"*{SUFFIX}")):
        try:
            key, payload = read_timing(path)
            found.append(TimingEntry(path, key, len(payload), len(TimingCache(path, key).pending())))
        except (UsageError, OSError) as error:
            found.append(TimingEntry(path, None, 0, problem=str(error)))
    return found


def export_timing(to: Path, name: str | None = None) -> list[tuple[TimingEntry, Path]]:
    """Writes timing caches to files that :func:`import_timing` takes on an equal device.

    Args:
        to: a file for one cache, or a folder that is there, for all.
        name: which cache; ``None``: the only one, or all into a folder.

    Returns:
        Each cache with its file.

    Raises:
        UsageError: there is none, or several and one file.
        OutputError: a file cannot be written.
    """
    entries = [e for e in timing_entries() if e.key is not None and name in (None, e.name)]
    if not entries:
        what = "no timing cache is here" if name is None else f"no timing cache is called {name}"
        raise UsageError(f"{what}: 'edgebig finish' makes one where TensorRT builds; TensorRT-RTX times nothing")
    if to.is_dir():
        places = [(entry, to / entry.path.name) for entry in entries]
    elif len(entries) == 1:
        places = [(entries[0], to)]
    else:
        names = ", ".join(entry.name for entry in entries)
        raise UsageError(f"{len(entries)} timing caches are here ({names}): name one with --name, or a folder for all")
    for entry, place in places:
        TimingCache(entry.path, _known(entry)).export(place)
    return places


def import_timing(source: Path) -> list[TimingEntry]:
    """Takes in a file that :func:`export_timing` wrote, or each in a folder; the next build of its kind joins it.

    Raises:
        UsageError: no such file, or it is no timing cache, or a damaged one; nothing is taken in then.
        OutputError: this device's folder cannot be written.
    """
    files = sorted(source.glob(f"*{SUFFIX}")) if source.is_dir() else [source]
    if not files:
        raise UsageError(f"{source} holds no timing cache: 'edgebig timing-cache export' writes one (*{SUFFIX})")
    try:
        read = [(path, *read_timing(path)) for path in files]
    except OSError as error:
        raise UsageError(f"cannot read the timing cache {error.filename or source}: {error.strerror}") from error
    taken = []
    for path, key, payload in read:
        cache = TimingCache(timing_folder() / key.file_name(), key)
        try:
            cache.merge(payload)
        except OSError as error:
            raise OutputError(f"cannot write {timing_folder()}: {error.strerror}") from error
        taken.append(TimingEntry(path, key, len(payload), len(cache.pending())))
    return taken


def clear_timing(names: list[str] | None) -> int:
    """Removes timing caches, with what was imported for them; all where ``names`` is ``None``.

    Returns:
        The number of caches that are gone.

    Raises:
        UsageError: there is none of that name; nothing is removed then.
    """
    entries = {entry.name: entry for entry in timing_entries()}
    unknown = [name for name in names or [] if name not in entries]
    if unknown:
        raise UsageError(f"no timing cache is called {unknown[0]}: 'edgebig timing-cache list' names them")
    chosen = list(entries.values()) if names is None else [entries[name] for name in names]
    for entry in chosen:
        for file in (entry.path, *entry.path.parent.glob(f"{entry.path.stem}.*.import")):
            with suppress(FileNotFoundError):
                file.unlink()
    return len(chosen)


def remove_partials() -> None:
    """Removes files that a process began to write into the device's folder and did not finish: the power failed."""
    for file in timing_folder().glob("*.partial"):
        with suppress(OSError):
            if time.time() - file.stat().st_mtime > _ABANDONED:
                file.unlink()


def _known(entry: TimingEntry) -> TimingKey:
    if entry.key is None:
        raise UsageError(entry.problem)
    return entry.key
