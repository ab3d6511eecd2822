"""Timing caches: what a builder measured, kept for the next build on an equal device.

A cache holds for one TensorRT version, one device and one set of builder flags. A file of this module starts with
a line that names them and the SHA-256 of what TensorRT wrote, so that a wrong or damaged file is told in
plain words before TensorRT sees it. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgebig.build.flavour import Flavour
from edgebig.build.options import BuildOptions
from edgebig.errors import OutputError, UsageError

SUFFIX = ".timing"
_MAGIC = "edgebig timing cache 1"
_EVERY = 30.0
"""Seconds between two saves while a build runs: so much is lost when the power fails."""
_LARGEST = 1 << 30


@dataclass(frozen=True)
class TimingKey:
    """What a timing cache holds for.

    Attributes:
        flavour: ``tensorrt``.
        version: TensorRT's.
        device: the GPU, ``Orin, 8.7`` for example: whatever tells two unequal devices apart.
        flags: builder flags that change which kernels are timed, sorted, joined by ``,``.
    """

    flavour: str
    version: str
    device: str
    flags: str

    @classmethod
    def of(cls, flavour: Flavour, device: str, options: BuildOptions) -> TimingKey:
        """The key of builds with these options on this device."""
        names = ("version_compatible", "strip_weights", "refit", "weight_streaming")
        asked = [name for name in names if getattr(options, name)]
        if options.hardware_compatible != "none":
            asked.append(f"hardware {options.hardware_compatible}")
        if options.dla_core is not None:
            asked.append("dla")
        return cls(flavour.name, flavour.version, device, ",".join(sorted(asked)))

    def file_name(self) -> str:
        """A name for its file, which no other key has."""
        plain = "".join(c if c.isalnum() else "-" for c in self.device.lower()).strip("-")[:40]
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.flavour}-{self.version}-{plain}-{digest}{SUFFIX}"

    def difference(self, other: TimingKey) -> str:
        """In plain words, where the other one differs; empty where it does not."""
        mine, theirs = asdict(self), asdict(other)
        found = [f"{name} {theirs[name] or 'none'}, here {mine[name] or 'none'}" for name in mine]
        return "; ".join(line for line, name in zip(found, mine, strict=True) if mine[name] != theirs[name])


class TimingCache:
    """The timing cache of one key: read before a build, saved while it runs and after it."""

    def __init__(self, path: Path, key: TimingKey, *, now: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.key = key
        self._now = now
        self._saved_at = now()
        self._imported: list[Path] = []
        self._joined: list[bytes] = []
        self._last: bytes | None = None
        self.declined = False
        """Whether TensorRT declined what a file holds: it is of another CUDA or driver, for example."""
        self._live: Any = None
        self._config: Any = None

    @classmethod
    def open(cls, place: str | os.PathLike[str], flavour: Flavour, device: str, options: BuildOptions) -> TimingCache:
        """The cache at ``place``: the file itself, or the one of this key in a folder.

        Raises:
            UsageError: the file is no timing cache, or one for something else.
        """
        key, path = TimingKey.of(flavour, device, options), Path(place)
        if path.suffix != SUFFIX:
            return cls(path / key.file_name(), key)
        cache = cls(path, key)
        if path.exists():
            cache._read(path)
        return cache

    def payloads(self) -> list[bytes]:
        """What TensorRT wrote: of this cache, and of those imported since it was last saved.

        A damaged file is left out: it only saves time.
        """
        found = []
        for path in (self.path, *self.pending()):
            with suppress(OSError, UsageError):
                found.append(self._read(path))
        return found

    def attach(self, config: Any) -> bool:
        """Hands the cache to a builder's config; ``False`` where TensorRT declines a part of what the files hold.

        Args:
            config: a TensorRT ``IBuilderConfig``.
        """
        self._imported = self.pending()
        self.declined = False
        live: Any = None
        for payload in (*self.payloads(), *self._joined):
            one = config.create_timing_cache(payload)
            if one is None:  # TensorRT cannot read it
                self.declined = True
            elif live is None:
                live = one
            elif not live.combine(one, False):
                self.declined = True
        if live is not None and not config.set_timing_cache(live, False):
            live, self.declined = None, True
        if live is None:
            live = config.create_timing_cache(b"")
            config.set_timing_cache(live, False)
        self._config, self._live, self._saved_at = config, live, self._now()
        return not self.declined

    def tick(self) -> None:
        """Saves if the last save is 30 s ago; called while a build runs."""
        if self._live is not None and self._now() - self._saved_at >= _EVERY:
            self.save()

    def save(self) -> None:
        """Writes what the builder holds now, joined with what another build wrote meanwhile, in one step.

        A cache that cannot be written is passed over: it only saves time.
        """
        self._saved_at = self._now()
        if self._live is None:
            return
        with suppress(OSError, UsageError):
            theirs = self._config.create_timing_cache(self._read(self.path))
            if theirs is not None:
                self._live.combine(theirs, False)
        written = self._live.serialize()
        if written is None:  # an error here would end the build, which is worth more
            return
        self._last = bytes(written)
        with suppress(OSError):
            write_timing(self.path, self.key, self._last)
            for path in self._imported:
                path.unlink(missing_ok=True)

    def detach(self) -> None:
        """Lets go of the builder's objects, which must not outlive the builder."""
        self._live = self._config = None

    def merge(self, payload: bytes) -> None:
        """Adds what another device's build measured; the next build joins it, since TensorRT alone can."""
        if payload in self.payloads():
            return
        digest = hashlib.sha256(payload).hexdigest()[:8]
        place = self.path if not self.path.exists() else self.path.with_suffix(f".{digest}.import")
        write_timing(place, self.key, payload)

    def export(self, path: str | os.PathLike[str]) -> None:
        """Writes what the last build saved, else what the file holds, for :meth:`import_` on an equal device.

        Raises:
            UsageError: nothing was timed yet.
            OutputError: the file cannot be written.
        """
        payloads = self.payloads() if self._last is None else [self._last]
        if not payloads:
            raise UsageError(f"there is no timing cache for {self.key.device}: build an engine there first")
        try:
            write_timing(Path(path), self.key, payloads[0])
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}") from error

    def import_(self, path: str | os.PathLike[str]) -> None:
        """Takes in a file that :meth:`export` wrote.

        Raises:
            UsageError: the file is no timing cache, or one for another version, device or flags.
            OSError: it cannot be kept here.
        """
        self.merge(self._told(path))

    def join(self, path: str | os.PathLike[str]) -> None:
        """Has the next build join a file that :meth:`export` wrote, without keeping it here.

        Raises:
            UsageError: as :meth:`import_`.
        """
        self._joined.append(self._told(path))

    def _told(self, path: str | os.PathLike[str]) -> bytes:
        try:
            return self._read(Path(path))
        except OSError as error:
            raise UsageError(f"cannot read the timing cache {path}: {error.strerror}") from error

    def _read(self, path: Path) -> bytes:
        key, payload = read_timing(path)
        difference = self.key.difference(key)
        if difference:
            raise UsageError(f"the timing cache {path} serves another build: {difference}: leave it out")
        return payload

    def pending(self) -> list[Path]:
        """Files that were imported and that no build has joined yet."""
        return sorted(self.path.parent.glob(f"{self.path.stem}.*.import"))


def read_timing(path: Path) -> tuple[TimingKey, bytes]:
    """The key and TensorRT's bytes of a timing cache file.

    Raises:
        OSError: it cannot be read.
        UsageError: it is no timing cache, or a damaged one.
    """
    if path.stat().st_size > _LARGEST:
        raise UsageError(f"{path} is too large to be a timing cache")
    head, _, payload = path.read_bytes().partition(b"\n")
    try:
        magic, _, text = head.decode().partition(": ")
        facts = json.loads(text)
        digest = facts.pop("sha256")
        key = TimingKey(**facts)
        if magic != _MAGIC or not all(isinstance(value, str) for value in asdict(key).values()):
            raise ValueError(magic)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} is no timing cache of edgebig, as export writes one") from error
    if hashlib.sha256(payload).hexdigest() != digest:
        raise UsageError(f"the timing cache {path} is damaged: copy it anew")
    return key, payload


def write_timing(path: Path, key: TimingKey, payload: bytes) -> None:
    """Writes a timing cache file in one step, synced to the disk.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {**asdict(key), "sha256": hashlib.sha256(payload).hexdigest()}
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".partial", delete=False) as stream:
        temporary = Path(stream.name)
        try:
            stream.write(f"{_MAGIC}: {json.dumps(facts)}\n".encode() + payload)
            stream.flush()
            os.fsync(stream.fileno())
            stream.close()
            temporary.chmod(0o644)  # other users of a device, and other devices, read it
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
