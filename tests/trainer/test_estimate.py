"""An estimate is made of parts that grow with the run, and is set beside what the run took."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support import runs, tiny_models
from topcoat.api.evaluation import Baseline, Evaluation
from topcoat.api.prepared import Estimate, StageEstimate
from topcoat.api.report import DataCard, StageCost, TaskKind
from topcoat.api.run import RunFile
from topcoat.api.training import CacheMedium, Sweep, Training
from topcoat_trainer import estimate, high_water, model_file, outcome, speed, stage, tree, workload
from topcoat_trainer.gate import baseline, exam
from topcoat_trainer.loop import loop, survey
from topcoat_trainer.shapes import Shapes
from topcoat_trainer.workload import Load

PACE = speed.Speed(many=1e11, thin=1e11, few=1e11)
SHAPES = Shapes(
    layers=30,
    trained_layers=8,
    hidden=576,
    vocabulary=49_152,
    prefix=77_900_000,
    tail=28_300_000,
    adapter=1_300_000,
    full=False,
)


def card(rows: int = 720, *, shared: int = 40, task: TaskKind = TaskKind.CLASSIFICATION) -> DataCard:
    return DataCard(
        digest="d",
        format="Chat",
        task=task,
        rows=rows + 300,
        train_samples=rows,
        holdout_samples=300,
        holdout_digest="h",
        split_rule="by hash",
        tokens=rows * 65,
        trained_tokens=rows * 3,
        longest_tokens=81,
        shared_tokens=shared,
        holdout_tokens=300 * 65,
        holdout_prompt_tokens=300 * 62,
        longest_answer_tokens=4,
    )


def load(rows: int = 720, **changes: Any) -> Load:
    made = Load(shapes=SHAPES, card=card(rows), training=Training(epochs=2), evaluation=Evaluation())
    return replace(made, **changes)


def seconds(wanted: Load) -> dict[str, float]:
    return {stage.stage: stage.seconds or 0.0 for stage in estimate.stages(wanted, PACE, 269_000_000)}


def layers(trained: int) -> Shapes:
    each = (SHAPES.prefix + SHAPES.tail) // SHAPES.layers
    return replace(
        SHAPES, trained_layers=trained, tail=each * trained, prefix=each * (30 - trained), adapter=160_000 * trained
    )


@pytest.mark.parametrize(
    ("less", "more"),
    [
        (load(720), load(721)),
        (load(720), load(7200)),
        (load(training=Training(epochs=2)), load(training=Training(epochs=3))),
        (load(training=Training(max_steps=10)), load(training=Training(max_steps=11))),
        (load(shapes=layers(8)), load(shapes=layers(9))),
        (load(shapes=layers(8)), load(shapes=layers(30))),
        (load(), load(shapes=replace(SHAPES, full=True))),
        (load(), load(serving=True)),
        (load(evaluation=Evaluation(max_samples=100)), load(evaluation=Evaluation(max_samples=200))),
        (load(evaluation=Evaluation(baselines=())), load(evaluation=Evaluation(baselines=(Baseline.PROMPT,)))),
        (load(card=card(shared=40)), load(card=card(shared=10))),
    ],
)
def test_more_of_anything_never_takes_less_time(less: Load, more: Load) -> None:
    assert sum(seconds(less).values()) < sum(seconds(more).values())
    # More layers that train are fewer that are cached.
    grown = {name: time for name, time in seconds(less).items() if less.shapes == more.shapes or name != "Caching"}
    assert all(time <= seconds(more)[name] for name, time in grown.items())


def test_without_the_cache_the_frozen_layers_are_paid_for_in_every_epoch() -> None:
    off = {"mode": "Disabled"}
    for epochs in (2, 5):
        cached = load(training=Training(epochs=epochs), card=card(shared=0))
        plain = replace(cached, training=Training.model_validate({"epochs": epochs, "activationCache": off}))
        once = workload.forward(cached, SHAPES.prefix, cached.card.tokens, 22)
        more = workload.epoch(plain).operations - workload.epoch(cached).operations
        assert more == pytest.approx(once)
        watched = workload.training(plain).operations - workload.training(cached).operations - epochs * once
        assert watched == pytest.approx(epochs * workload.forward(cached, SHAPES.prefix, 128 * 65, 22))
        assert workload.caching(cached).read > workload.caching(plain).read + 0.2 * once


def test_a_sweep_costs_what_its_trials_train_and_layers_are_tried_on_top(
    tmp_path: Path, facts: model_file.ModelFacts
) -> None:
    eight = Sweep(learning_rates=("0.0005", "0.001", "0.002", "0.004"), ranks=(8, 16))
    one, sweep = load(4096), load(4096, training=Training(epochs=2, sweep=eight))
    assert 2.0 < seconds(sweep)["Training"] / seconds(one)["Training"] <= 2.6
    assert seconds(sweep)["Caching"] == pytest.approx(seconds(one)["Caching"], rel=0.05)
    assert load(training=Training(epochs=1, sweep=eight)).cached
    auto = told(tmp_path, facts, method={"type": "LoRA", "layers": "Auto"}, training={"epochs": 3})
    assert estimate.load(facts, card(720), auto).trial_epochs == 0  # a short run has no trials
    assert estimate.load(facts, card(7200), auto).trial_epochs == pytest.approx(0.2 * 3 * (3 / 2))


def test_one_epoch_fills_no_cache_unless_it_must() -> None:
    assert not load(training=Training(epochs=1)).cached
    assert load(training=Training.model_validate({"epochs": 1, "activationCache": {"mode": "Enabled"}})).cached
    assert not load(shapes=layers(30)).cached


def test_a_beginning_that_all_rows_share_is_computed_once_where_that_saves_enough() -> None:
    for work in (workload.caching, workload.epoch):
        shared, alone = (work(load(card=card(shared=tokens))).operations for tokens in (40, 0))
        assert shared < 0.6 * alone


def test_training_is_shared_by_the_processes_and_nothing_else_is() -> None:
    one, four = (seconds(load(processes=processes, card=card(shared=0))) for processes in (1, 4))
    assert four["Training"] == pytest.approx(one["Training"] / 4, abs=0.02)
    assert {name: time for name, time in four.items() if name != "Training"} == {
        name: time for name, time in one.items() if name != "Training"
    }


def test_long_baselines_are_asked_of_as_many_rows_as_a_cpu_can_bear() -> None:
    ways = Evaluation(baselines=(Baseline.RETRIEVAL,))
    here, there = load(evaluation=ways), load(evaluation=ways, on_cpu=False)
    many = card().model_copy(
        update={"holdout_samples": 3000, "holdout_tokens": 195_000, "holdout_prompt_tokens": 186_000}
    )
    assert workload.baselines(here).read <= workload.baselines(there).read
    assert workload.baselines(replace(here, card=many)).read < 0.2 * workload.baselines(replace(there, card=many)).read


def test_what_the_estimate_says_of_the_trainer_is_what_the_trainer_does() -> None:
    assert workload.SHARED_TOKENS == tree.WORTH_TOKENS
    assert workload.WATCHED_ROWS == stage.WATCHED_ROWS
    assert workload.STOPPING_ROWS == stage.CHOOSING_ROWS
    assert workload.WATCHES == loop.WATCHES
    assert workload.MOST_TOKENS == survey.MOST_TOKENS
    assert (workload.PROMPT_EXAMPLES, workload.RETRIEVED_EXAMPLES) == (24, 8)
    assert (baseline.PROMPT_EXAMPLES, baseline.RETRIEVED_EXAMPLES) == (24, 8)
    assert workload.BASELINE_TOKENS_ON_CPU == baseline.TOKENS_ON_CPU
    assert workload.BASELINE_ROWS_AT_LEAST == baseline.ROWS_AT_LEAST
    assert workload.BASELINE_FREE_ROWS == baseline.FREE_ROWS
    assert workload.FREE_TOKENS_ON_CPU == exam.FREE_TOKENS_ON_CPU
    assert workload.MARGIN_TOKENS == exam.MARGIN_TOKENS


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> model_file.ModelFacts:
    return model_file.inspect(tiny_models.make("llama", tmp_path_factory.mktemp("base") / "tiny"))


def told(folder: Path, facts: model_file.ModelFacts, **changes: Any) -> RunFile:
    return RunFile.model_validate_json(runs.run_file(folder, facts.path, **changes).read_bytes())


def test_on_this_machine_every_stage_has_its_time_and_memory_its_parts(
    tmp_path: Path, facts: model_file.ModelFacts
) -> None:
    found = estimate.estimate(facts, card(), told(tmp_path, facts, gpus=0))
    assert [stage.stage for stage in found.stages] == ["Loading", "Caching", "Training", "Evaluating"]
    assert found.duration_seconds == pytest.approx(sum(stage.seconds or 0 for stage in found.stages), abs=0.1)
    assert found.memory_bytes == sum(part.bytes for part in found.memory)
    assert (found.gpus, found.gpu_hours, found.gpu_memory_bytes) == (0, None, None)
    assert found.disk_bytes > 12 * found.trained_parameters


def test_a_gpu_gets_operations_and_memory_and_no_invented_seconds(tmp_path: Path, facts: model_file.ModelFacts) -> None:
    found = estimate.estimate(facts, card(), told(tmp_path, facts, gpus=2, processes=2))
    assert (found.duration_seconds, found.gpu_hours) == (None, None)
    assert all(stage.seconds is None for stage in found.stages)
    assert found.operations > 0
    assert found.gpu_memory_bytes == sum(part.bytes for part in found.memory)
    assert "GPU" in found.device


def test_the_cache_is_memory_on_its_medium_or_disk_on_the_volume(
    tmp_path: Path, facts: model_file.ModelFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workload, "CACHE_MEDIA", frozenset(CacheMedium))
    names = {}
    for medium in ("Memory", "Volume"):
        run = told(tmp_path, facts, gpus=0, training={"epochs": 2, "activationCache": {"medium": medium}})
        found = estimate.estimate(facts, card(), run)
        names[medium] = ({part.part for part in found.memory}, found.disk_bytes)
    size = estimate.cache_bytes(estimate.load(facts, card(), run), 4)
    assert "activation cache" in names["Memory"][0]
    assert "activation cache" not in names["Volume"][0]
    assert names["Volume"][1] - names["Memory"][1] == size > 0


def cost(stage: str, seconds: float, gpu: float = 0.0) -> StageCost:
    return StageCost(stage=stage, seconds=seconds, cpu_seconds=seconds, gpu_seconds=gpu)


def test_what_was_measured_stands_beside_what_was_estimated() -> None:
    said = Estimate(
        memory_bytes=1000,
        duration_seconds=40.0,
        trained_parameters=1,
        total_parameters=2,
        stages=[
            StageEstimate(stage=name, seconds=time)
            for name, time in (("Loading", 10.0), ("Training", 20.0), ("Evaluating", 8.0), ("Baselines", 2.0))
        ],
    )
    took = [("Loading", 5.0), ("Training", 30.0), ("evaluate", 8.0), ("baselines", 4.0), ("Evaluating", 12.5)]
    lines = outcome.checks(said, {name: cost(name, time) for name, time in took}, 1300, None)
    assert {line.part: line.ratio for line in lines} == {
        "Loading": 0.5,
        "Training": 1.5,
        "Evaluating": 1.0,
        "Baselines": 2.0,
        "All stages": 1.188,
        "Peak memory": 1.3,
    }


def test_on_a_gpu_hours_are_measured_even_where_they_could_not_be_estimated() -> None:
    said = Estimate(memory_bytes=1, trained_parameters=1, total_parameters=2, gpus=2, gpu_memory_bytes=500)
    found = outcome.checks(said, {"Training": cost("Training", 1800.0, gpu=3600.0)}, 1300, 600)
    lines = {line.part: line for line in found}
    assert (lines["GPU hours"].estimated, lines["GPU hours"].measured, lines["GPU hours"].ratio) == (None, 1.0, None)
    assert lines["Peak GPU memory"].ratio == 1.2


def test_the_high_water_mark_is_this_programs_own() -> None:
    code = "from topcoat_trainer import high_water; x = bytearray(200 << 20); print(high_water.memory_bytes())"
    held = bytearray(os.urandom(1 << 20)) * 400
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert 200 << 20 < int(done.stdout) < 350 << 20 < len(held)
    assert high_water.memory_bytes() >= 400 << 20
