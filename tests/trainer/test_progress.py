"""Progress is whole, seldom enough, and never ends a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from topcoat.api.prepared import Estimate, StageEstimate
from topcoat.api.report import Progress
from topcoat_trainer import progress
from topcoat_trainer.progress import Part, Reporter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_it_is_written_in_kubeflows_shape_at_most_once_a_second(tmp_path: Path) -> None:
    clock, told = Clock(), list[Progress]()
    reporter = Reporter(tmp_path / "p.json", told.append, clock)
    reporter.stage("Training")
    for step in range(1, 11):
        clock.now += 0.3
        reporter.share(step / 20, metrics={"loss": 0.5}, step=(step, 20), tokens_per_second=12.34)
    found = read(tmp_path / "p.json")
    assert found["metrics"] == [{"name": "loss", "value": "0.5"}]
    assert found["totalSteps"] == 20
    assert found["tokensPerSecond"] == 12.3
    assert 8 < found["progressPercentage"] < 80
    assert found["estimatedRemainingSeconds"] > 3
    assert found["lastUpdatedTime"].endswith("Z")
    assert len(told) == 3


def test_every_stage_is_further_than_the_one_before() -> None:
    seen = [progress.percentage(stage, share) for stage in progress.STAGES for share in (0.0, 0.5, 1.0)]
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 100)


def test_a_trial_is_a_part_of_its_stage(tmp_path: Path) -> None:
    clock = Clock()
    whole = Reporter(tmp_path / "p.json", clock=clock)
    whole.stage("Training")
    part = Part(whole, 0.5, 0.25)
    part.resumed(0.9)
    clock.now += 10
    part.share(0.5, metrics={"loss": 2.0}, step=(3, 6))
    found = read(tmp_path / "p.json")
    assert found["progressPercentage"] == 8 + int(72 * 0.625)
    assert (found["currentStep"], found["metrics"]) == (3, [{"name": "loss", "value": "2"}])
    assert found["estimatedRemainingSeconds"] > 0


def test_the_estimate_leaves_out_what_an_earlier_attempt_did(tmp_path: Path) -> None:
    clock = Clock()
    reporter = Reporter(tmp_path / "p.json", clock=clock)
    reporter.stage("Training")
    reporter.resumed(0.5)
    clock.now += 10
    reporter.share(0.75)
    # A quarter in ten seconds, a quarter left, and a third of the stage's width after it.
    assert read(tmp_path / "p.json")["estimatedRemainingSeconds"] == pytest.approx(10 + 40 * 20 / 72, abs=1)


def test_the_end_says_so(tmp_path: Path) -> None:
    reporter = Reporter(tmp_path / "p.json")
    reporter.stage("Sealed")
    found = read(tmp_path / "p.json")
    assert (found["progressPercentage"], found["estimatedRemainingSeconds"]) == (100, 0)


def test_progress_that_cannot_be_written_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Reporter(tmp_path / "none" / "p.json").stage("Training")
    assert "progress could not be written" in caplog.text


def expected(**seconds: float) -> Estimate:
    stages = [StageEstimate(stage=name, seconds=time) for name, time in seconds.items()]
    return Estimate(memory_bytes=1, trained_parameters=1, total_parameters=2, stages=stages)


def test_measured_steps_correct_what_was_estimated_of_the_stages_after_them(tmp_path: Path) -> None:
    clock = Clock()
    reporter = Reporter(tmp_path / "p.json", clock=clock)
    reporter.expect(expected(Loading=5.0, Caching=5.0, Training=100.0, Evaluating=30.0, Baselines=20.0))
    reporter.stage("Training")
    clock.now += 20
    reporter.share(0.1, step=(2, 20))
    # A tenth took twice what was estimated: 180 s of training are left, and twice 50 s of judging.
    found = read(tmp_path / "p.json")
    assert found["estimatedRemainingSeconds"] == 280
    assert found["secondsPerStep"] == 10.0
    assert found["peakMemoryBytes"] > 10 << 20


def test_a_step_is_timed_by_the_steps_of_this_attempt_alone(tmp_path: Path) -> None:
    clock = Clock()
    reporter = Reporter(tmp_path / "p.json", clock=clock)
    reporter.stage("Training")
    reporter.resumed(0.5)
    clock.now += 6
    reporter.share(0.65, step=(13, 20))
    assert read(tmp_path / "p.json")["secondsPerStep"] == 2.0


def test_where_no_speed_is_known_the_rest_is_told_by_proportion(tmp_path: Path) -> None:
    clock = Clock()
    reporter = Reporter(tmp_path / "p.json", clock=clock)
    unknown = expected(Training=1.0, Evaluating=1.0)
    stages = [stage.model_copy(update={"seconds": None}) for stage in unknown.stages]
    reporter.expect(unknown.model_copy(update={"stages": stages}))
    reporter.stage("Training")
    clock.now += 10
    reporter.share(0.5)
    assert read(tmp_path / "p.json")["estimatedRemainingSeconds"] == pytest.approx(10 + 20 * 20 / 72, abs=1)
