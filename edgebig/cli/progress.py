"""Shows how a compile goes: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from edgebig.stages import Event, Listener

if TYPE_CHECKING:
    from rich.console import Console
    from rich.spinner import Spinner


@contextmanager
def shown_progress(stream: TextIO, *, verbose: bool, quiet: bool) -> Iterator[Listener]:
    """Gives the listener that shows a compile's stages on ``stream``.

    Args:
        stream: a terminal, a pipe or a file.
        verbose: also what each stage did, and what it left and why.
        quiet: show nothing.
    """
    console = None if quiet or not stream.isatty() else _rich_console(stream)
    if quiet:
        yield lambda event: None
    elif console is None:
        yield _PlainLines(stream, verbose)
    else:
        live = _LiveLines(console, verbose)
        try:
            yield live
        finally:
            live.stop()


def _head(event: Event) -> str:
    return f"[{event.number}/{event.total}] {event.stage}"


def _end(event: Event) -> str:
    return f"{_head(event):<15} {event.seconds:6.1f} s"


def _detail(event: Event) -> str:
    return f"      {'left: ' if event.kind == 'declined' else ''}{event.text}"


class _PlainLines:
    """A line at the start and at the end of each stage."""

    def __init__(self, stream: TextIO, verbose: bool) -> None:
        self._stream = stream
        self._verbose = verbose
        self._is_open = True

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self._say(f"{_head(event)} …")
        elif event.kind == "end":
            self._say(_end(event))
        elif event.kind != "progress" and self._verbose:
            self._say(_detail(event))

    def _say(self, line: str) -> None:
        """A reader that went away must not end the compile: the line is dropped."""
        try:
            if self._is_open:
                self._stream.write(line + "\n")
                self._stream.flush()
        except BrokenPipeError:
            self._is_open = False


class _LiveLines:
    """A spinner with the stage, its seconds and the latest note; a finished stage becomes a plain line."""

    def __init__(self, console: Console, verbose: bool) -> None:
        from rich.live import Live
        from rich.spinner import Spinner

        self._console = console
        self._verbose = verbose
        self._spinner = Spinner("dots")
        self._start = time.perf_counter()
        self._head = self._note = ""
        self._live = Live(get_renderable=self._render, console=console, transient=True, refresh_per_second=8)

    def __call__(self, event: Event) -> None:
        if event.kind == "start":
            self._head, self._note, self._start = _head(event), "", time.perf_counter()
            self._live.start()
        elif event.kind == "end":
            self._live.stop()
            self._console.print(_end(event), markup=False, highlight=False)
        else:
            self._note = event.text
            if self._verbose and event.kind != "progress":
                self._console.print(_detail(event), markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Takes the spinner away."""
        self._live.stop()

    def _render(self) -> Spinner:
        from rich.text import Text

        line = Text(f"{self._head} …  {time.perf_counter() - self._start:.0f} s  {self._note}")
        line.truncate(max(self._console.width - 4, 1), overflow="ellipsis")
        self._spinner.update(text=line)
        return self._spinner


def _rich_console(stream: TextIO) -> Console | None:
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream)
