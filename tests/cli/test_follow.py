"""Progress for people: plain lines off a terminal, a picture on one."""

from __future__ import annotations

import io
import json
from pathlib import Path

from tests.support import worlds
from topcoat.api import report, status
from topcoat.cli import follow, observe
from topcoat.plan import intent


def heard(tmp_path: Path, percentages: list[int], stage: str = "Training") -> list[str]:
    places = observe.Places(tmp_path)
    places.run(1).mkdir(parents=True)
    stream = io.StringIO()
    lines = follow.Lines(stream, "claims", follow.Files(places))
    world = worlds.World()
    world.step()
    planned = world.step()
    for percentage in percentages:
        metric = report.ProgressMetric(name="loss", value="1.23456")
        progress = report.Progress(
            stage=stage, progress_percentage=percentage, metrics=[metric], current_step=percentage, total_steps=100,
            estimated_remaining_seconds=100 - percentage,
        )  # fmt: skip
        (places.run(1) / "progress.json").write_text(json.dumps(progress.as_json()))
        lines.hear(world.job, intent.Plan(planned.status))
    return stream.getvalue().splitlines()


def test_plain_lines_come_once_per_ten_per_cent(tmp_path: Path) -> None:
    lines = heard(tmp_path, list(range(0, 100, 2)))
    assert len(lines) == 10
    assert lines[4] == "claims:    40 %, training, step 40 of 100, loss 1.235, 1m to go"


def test_a_file_cut_short_is_no_progress(tmp_path: Path) -> None:
    places = observe.Places(tmp_path)
    places.run(1).mkdir(parents=True)
    (places.run(1) / "progress.json").write_text('{"stage": "Trai')
    assert follow.reported_or_none(places, 1) is None


def test_events_are_said_without_what_steers_a_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    world = worlds.World()
    planned = world.step()
    event = intent.Event("Normal", "Completed", "done \x1b[31mred")
    lines = follow.Lines(stream, "claims", follow.Files(observe.Places(tmp_path)))
    lines.hear(world.job, intent.Plan(planned.status, (), (event,)))
    assert stream.getvalue() == "claims: done [31mred\n"


def test_a_curve_is_thinned_and_drawn_with_room_for_what_comes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": step, "loss": 5.0 - step / 200, "epoch": 1} for step in range(1, 801)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 801, "lo')
    found = follow.curve(path)
    assert len(found.steps) <= follow.CURVE_POINTS + 1
    assert (found.steps[0], found.steps[-1]) == (1, 800)
    picture = follow.drawn(found, 100, 1600)
    assert len(picture.splitlines()) >= follow.CURVE_ROWS
    assert "(step)" in picture
    assert follow.drawn(follow.Curve(), 100) == ""


def test_judging_has_no_steps() -> None:
    progress = report.Progress(stage="Evaluating", progress_percentage=80, current_step=9, total_steps=9)
    assert follow.sentence(progress) == " 80 %, evaluating"


def test_a_cluster_tells_progress_by_status_and_the_curve_grows_while_somebody_watches() -> None:
    told = follow.Told()
    for step in (10, 20, 20):
        said = status.ProgressStatus(stage="Training", progress_percentage=step, current_step=step, total_steps=100,
                                     loss=f"{3 - step / 100}", tokens_per_second="12.5")  # fmt: skip
        seen = status.FineTuneJobStatus(run=status.RunStatus(number=1), progress=said)
        losses = told.curve(seen)
    assert (losses.steps, losses.losses) == ((10, 20), (2.9, 2.8))
    found = told.progress_or_none(seen)
    assert found is not None
    assert follow.sentence(found) == " 20 %, training, step 20 of 100, loss 2.8, 12 tokens/s"
    again = seen.model_copy(update={"run": status.RunStatus(number=1, attempt=2)})
    assert told.curve(again).steps == (20,)
