"""A signal ends a stage at once, and the loop at its next step."""

from __future__ import annotations

import os
import signal

import pytest

from topcoat_trainer.errors import Stopped
from topcoat_trainer.loop.stop import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_an_ordinary_stage_at_once(number: signal.Signals) -> None:
    stop = Stop()
    with pytest.raises(Stopped, match=number.name), stop.listening():
        os.kill(os.getpid(), number)
    assert stop.asked


def test_within_the_loop_a_signal_only_asks() -> None:
    stop = Stop()
    with stop.listening(), stop.patient():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked


def test_a_stop_that_a_library_swallowed_is_not_forgotten() -> None:
    stop = Stop()
    with stop.listening():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # noqa: BLE001 - what careless libraries do
            swallowed = True
        assert swallowed
        with pytest.raises(Stopped), stop.patient():
            raise AssertionError("the loop began all the same")
        with pytest.raises(Stopped):
            stop.check()


def test_the_signals_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop().listening():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
