"""A time limit on a piece of pure Python: foreign code (a chat template) may not run for ever.

Works in the main thread only, where Python delivers signals; elsewhere it does nothing. Keeps a timer set by others.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType


class TooSlow(Exception):
    """The limit passed."""


def _raise(_signal: int, _frame: FrameType | None) -> None:
    raise TooSlow


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Inside it, TooSlow is raised once `seconds` have passed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    started = time.monotonic()
    before = signal.signal(signal.SIGALRM, _raise)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if remaining:
            left = max(remaining - (time.monotonic() - started), 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, interval)
