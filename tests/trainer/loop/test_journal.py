"""metrics.jsonl never holds a step twice, nor half a line."""

from __future__ import annotations

from pathlib import Path

from topcoat_trainer.loop import journal
from topcoat_trainer.loop.journal import Journal


def line(step: int, **more: float) -> dict[str, float | int]:
    return {"step": step, "epoch": step / 10, "loss": 1.0 / step, "learningRate": 0.1, **more}


def test_a_resumed_journal_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = Journal(path)
    first.rewind(0)
    for step in (1, 2, 3):
        first.write(line(step))
    first.close()
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    second = Journal(path)
    second.rewind(2)
    second.write(line(3, holdoutLoss=0.5))
    second.sync()
    second.close()
    assert [point.step for point in journal.curve(path)] == [1, 2, 3]
    assert journal.curve(path)[-1].holdout_loss == 0.5


def test_a_long_curve_is_thinned_but_keeps_its_end_and_every_held_out_loss(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    made = Journal(path)
    made.rewind(0)
    for step in range(1, 1002):
        made.write(line(step, **({"holdoutLoss": 0.1} if step == 17 else {})))
    made.close()
    points = journal.curve(path, points=100)
    assert len(points) <= 102
    assert {17, 1001} <= {point.step for point in points}
    assert journal.curve(tmp_path / "none") == []
