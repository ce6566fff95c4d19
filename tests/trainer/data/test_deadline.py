"""The time limit on foreign code: it ends what does not end, and leaves other people's timers alone."""

from __future__ import annotations

import itertools
import signal
import threading
import time

import pytest

from topcoat_trainer.deadline import TooSlow, deadline


def test_what_does_not_end_is_ended() -> None:
    with pytest.raises(TooSlow), deadline(0.05):
        any(number < 0 for number in itertools.count())


def test_a_timer_that_was_set_before_still_fires() -> None:
    fired: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, _: fired.append(number))
    old = signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with deadline(5.0):
            pass
        time.sleep(0.3)
        assert fired == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *old)


def test_other_threads_are_not_limited_and_not_harmed() -> None:
    done: list[bool] = []

    def work() -> None:
        with deadline(0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]
