"""SIGTERM and SIGINT as a wish: the loop ends at the next step boundary with a checkpoint, other stages end at once.

Nothing is written here.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

from topcoat_trainer.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether somebody asked the process to stop."""

    def __init__(self) -> None:
        self.asked = False
        self._patient = False
        self._deaf = False

    def ask(self, number: int = signal.SIGTERM, _frame: FrameType | None = None) -> None:
        """The signal handler. Outside of the loop it raises: all other stages can simply be done again."""
        if self._deaf:
            return
        self.asked = True
        if not self._patient:
            raise Stopped(f"stopped by {signal.Signals(number).name}")

    def check(self) -> None:
        """Between stages: raises where a library swallowed the handler's exception."""
        if self.asked:
            raise Stopped("stopped as asked")

    def deafen(self) -> None:
        """How the process ends is decided: a signal may not cut off its last word."""
        self._deaf = True

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Inside it a signal only sets `asked`: whoever opened it looks at step boundaries."""
        self.check()
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Takes over the signals, and gives them back. Only in a process's main thread."""
        before = {number: signal.signal(number, self.ask) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
