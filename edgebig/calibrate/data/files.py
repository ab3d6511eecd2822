"""The files of a calibration set, which must stay as they are while they are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgebig.calibrate.data.reading import Found, refusal
from edgebig.errors import CalibrationError


@dataclass(frozen=True)
class Files:
    """Files as they were found.

    Attributes:
        root: the folder or file that was given.
        states: size in bytes and time of the last change in nanoseconds, by path, in the order of reading.
    """

    root: Path
    states: dict[Path, tuple[int, int]]

    @classmethod
    def under(cls, root: Path) -> Files:
        """All files of a folder sorted by path, without hidden ones; or the one file."""
        if not root.is_dir():
            return cls.of(root, [root])
        found = (f for f in root.rglob("*") if not any(p.startswith(".") for p in f.relative_to(root).parts))
        return cls.of(root, sorted(f for f in found if f.is_file()))

    @classmethod
    def of(cls, root: Path, paths: Sequence[Path]) -> Files:
        """These files.

        Raises:
            CalibrationError: one of them is not there.
        """
        states = {}
        for path in paths:
            state = _state(path)
            if state is None:
                raise CalibrationError(f"calibration data: the file {path} is missing")
            states[path] = state
        return cls(root, states)

    def name(self, path: Path) -> str:
        """The file's name for people: its path under the root."""
        return path.name if path == self.root else path.relative_to(self.root).as_posix()

    def check(self, path: Path) -> None:
        """Refuses a file that is not as it was found.

        Raises:
            CalibrationError: it vanished, or its size or time changed.
        """
        state = _state(path)
        if state != self.states[path]:
            happened = "vanished" if state is None else "changed"
            raise CalibrationError(
                f"calibration data: {path} {happened} while the samples were read: "
                "compile again with data that stays as it is"
            )

    def read(self, paths: Sequence[Path], read_one: Callable[[Path, str], Iterator[Found]]) -> Iterator[Found]:
        """What ``read_one`` finds in each file, given its path and its name.

        A file that cannot be read is found refused, and reading goes on with the next.

        Raises:
            CalibrationError: a file changed meanwhile.
        """
        for path in paths:
            name = self.name(path)
            self.check(path)
            try:
                for where, found in read_one(path, name):
                    if isinstance(found, CalibrationError):
                        # a file that changes while it is read often looks damaged
                        self.check(path)
                    yield where, found
            except CalibrationError as error:
                self.check(path)
                yield name, error
            except OSError as error:
                self.check(path)
                yield name, refusal(name, error.strerror or error)
            self.check(path)


def _state(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
