"""What the trainer's benchmark makes of its measurements."""

from __future__ import annotations

import math

from benchmarks.trainer import table
from benchmarks.trainer.figures import Course, Epoch, reached_by_all


def course(subject: str, once: float, *epochs: tuple[float, float], layers: int = 8) -> Course:
    """Epochs as (seconds, held-out loss)."""
    fill = Epoch(once, once, math.nan, 100.0)
    return Course(subject, "claims", layers, fill, [Epoch(cpu, cpu / 2, loss, 200.0) for cpu, loss in epochs])


OURS = course("topcoat", 10.0, (5.0, 1.0), (2.0, 0.5), (4.0, 0.2))
PEER = course("trainer-all", 0.0, (40.0, 0.9), (36.0, 0.4), (36.0, 0.3), layers=0)


def test_the_first_epoch_is_not_the_steady_state_and_what_is_done_once_counts_once() -> None:
    assert OURS.steady.cost_seconds == 3.0
    assert (OURS.whole(1), OURS.whole(10)) == (13.0, 40.0)
    assert course("x", 1.0, (7.0, 1.0)).steady.cost_seconds == 7.0


def test_time_to_a_loss_counts_all_before_it() -> None:
    assert reached_by_all([OURS, PEER]) == 0.3
    assert OURS.until(0.5) == 17.0
    assert PEER.until(0.1) is None


def test_the_table_tells_how_many_times_as_quick_and_what_was_aimed_at() -> None:
    said = table.table([OURS, PEER])
    assert "trainer-all / topcoat: 12.00 in an epoch (target 12), 5.68 in three (target 7)" in said
    assert "last 8 layers; to a held-out loss of 0.3000" in said
    row = next(line for line in said.splitlines() if line.startswith("trainer-all "))
    assert row.split()[1:7] == ["all", "0.0", "36.0", "18.0", "36.0", "108.0"]
