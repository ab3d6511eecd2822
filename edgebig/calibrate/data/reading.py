"""What readers of calibration data give, and the record of one reading."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from edgebig.errors import CalibrationError, EdgebigError, MissingExtra

Array = np.ndarray[Any, Any]
Sample = dict[str, Array]
Located = tuple[str, Sample]
Found = tuple[str, Sample | CalibrationError]
"""Where a sample comes from, and the sample, or why it is refused: reading may go on after a refusal."""

_EXPECTED = (EdgebigError, OSError, ValueError)
_INDEX = re.compile(r"(\[\d+\]|:\d+)$")
_ROW = re.compile(r" row \d+$")


@dataclass(frozen=True)
class Preparers:
    """How people's inputs become a sample of this model; ``None`` where it has no such processor.

    Attributes:
        picture: a picture's file, or its open bytes, to a sample.
        text: a line to a sample.
        sound: a WAV file, or its open bytes, to its samples in order.
    """

    picture: Callable[[Path | IO[bytes]], Sample] | None = None
    text: Callable[[str], Sample] | None = None
    sound: Callable[[Path | IO[bytes]], Iterable[Sample]] | None = None


@dataclass(frozen=True)
class Refusal:
    """A sample that was not used: where it comes from and why."""

    where: str
    reason: str


@dataclass
class Reading:
    """What became of the samples, in the latest iteration.

    Attributes:
        asked: largest number of samples that were wanted; the data may hold fewer.
        read: samples met, those refused included.
        used: samples handed out, those held out as golden inputs included.
        refused: those that were skipped, and last the one that ended the reading, if one did.
    """

    asked: int = 0
    read: int = 0
    used: int = 0
    refused: list[Refusal] = field(default_factory=list)

    def restart(self) -> None:
        """Forgets the iteration before."""
        self.read = self.used = 0
        self.refused = []

    def findings(self) -> list[str]:
        """What was left out and why, a line each."""
        return [f"left out, as --calib-skip-bad allows: {refusal.reason}" for refusal in self.refused]


def recording_of(where: str) -> str:
    """The recording that a sample belongs to: its file, and its row where a file holds several streams.

    State is carried from sample to sample within one recording: ``talk.wav[12]`` is of
    ``talk.wav``, ``frames.jsonl:7`` of ``frames.jsonl``, ``both.npz[3] row 1`` of ``both.npz row 1``.
    """
    row = _ROW.search(where)
    stem = where[: row.start()] if row else where
    return _INDEX.sub("", stem) + (row.group() if row else "")


def file_of(recording: str) -> str:
    """The file of a recording: ``both.npz`` of ``both.npz row 1``."""
    return _ROW.sub("", recording)


def prepared(make: Callable[[Any], Sample], item: Any, where: str) -> Sample | CalibrationError:
    """What ``make`` gives for ``item``, or why it gives nothing.

    Raises:
        MissingExtra: a package is missing, which no other sample would mend.
    """
    try:
        return make(item)
    except MissingExtra:
        raise
    except _EXPECTED as error:
        return _as_refusal(where, error)


def pieces(make: Callable[[Any], Iterable[Sample]], item: Any, where: str) -> Iterator[Found]:
    """The samples that ``make`` gives for ``item``, ``where[0]`` and on; or why it gives no more.

    Raises:
        MissingExtra: as :func:`prepared`.
    """
    try:
        for index, sample in enumerate(make(item)):
            yield f"{where}[{index}]", sample
    except MissingExtra:
        raise
    except _EXPECTED as error:
        yield where, _as_refusal(where, error)


def refusal(where: str, reason: object) -> CalibrationError:
    """The error for a sample or file that cannot be used."""
    return CalibrationError(f"calibration data: {where}: {reason}")


def _as_refusal(where: str, error: Exception) -> CalibrationError:
    return error if isinstance(error, CalibrationError) else refusal(where, error)
