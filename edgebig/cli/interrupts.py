"""Ctrl-C, SIGTERM and SIGHUP end a command through every ``with``, so that nothing half-written stays."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Turns the first signal into ``KeyboardInterrupt``, at once or at the next :meth:`check`.

    An engine builder calls back into Python from C++, which would swallow an exception that is
    raised there, print it and go on. So while one is at work the signal is only noted.

    Attributes:
        received: number of the signal that came; ``None`` before one has.
        deferred: whether a first signal waits for :meth:`check`; a second one does not.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.deferred = False

    def watch(self) -> None:
        """Handles the signals, but none that the process was started to ignore (``nohup``)."""
        self.received, self.deferred = None, False
        for number in _SIGNALS:
            try:
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    signal.signal(number, self._on_signal)
            except ValueError:  # not the main thread, where signals are not handled
                return

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` if a signal came."""
        if self.received is not None:
            raise KeyboardInterrupt

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        is_first, self.received = self.received is None, number
        if not (self.deferred and is_first):
            raise KeyboardInterrupt


interrupts = Interrupts()
"""Of this process."""
