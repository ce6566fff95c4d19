"""A sweep finds the better values, costs what it says, and gives what a run with these values alone gives."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.support import crews, runs
from topcoat.api.exits import Exit
from topcoat.api.report import EvaluationReport
from topcoat_trainer import files, seal, stage, sweep
from topcoat_trainer.loop.loop import Loop

# In the first order the best one is neither the first nor the last.
RATES = ["0.00001", "0.005", "0.0001", "0.00002"]
TRAINING: dict[str, Any] = {"epochs": 3, "effectiveBatchSize": 8, "maxSequenceLength": 128}


def swept(root: Path, model: Path, cache: Path, **sweep: Any) -> Path:
    return runs.run_file(
        root, model, cache=cache, training={**TRAINING, "sweep": sweep}, method={"layers": 2}, evaluation=EVALUATION
    )


EVALUATION: dict[str, Any] = {"generation": {"maxTokens": 2}, "baselines": []}


def report(root: Path) -> EvaluationReport:
    return EvaluationReport.model_validate(files.read_json(root / "versions/v1/evaluation.json"))


@pytest.fixture(scope="module")
def plain(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with the best values alone, on the rows that a sweep learns from."""
    root = tmp_path_factory.mktemp("plain")
    path = runs.run_file(
        root,
        tiny,
        training={**TRAINING, "learningRate": "0.005", "earlyStopping": {"patience": 100, "minDelta": "0"}},
        method={"layers": 2},
        evaluation=EVALUATION,
    )
    assert runs.carry_out(path) == 0
    return root


@pytest.fixture(scope="module")
def won(tiny: Path, plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("won")
    assert runs.carry_out(swept(root, tiny, plain / "cache", learningRates=RATES)) == 0
    return root


def test_a_sweep_picks_the_better_learning_rate_and_says_so(won: Path) -> None:
    found = report(won)
    assert [row.chosen for row in found.sweep_trials] == [False, True, False, False]
    assert [row.learning_rate for row in found.sweep_trials] == [float(rate) for rate in RATES]
    losses = [row.loss for row in found.sweep_trials if row.loss is not None]
    assert min(losses) == found.sweep_trials[1].loss
    assert (found.lineage.learning_rate, found.lineage.rank) == (0.005, 16)
    assert any("learning rate 0.005, rank 16 won among 4 trials" in note for note in found.lineage.notes)
    assert seal.verify(won / "versions/v1").lineage.learning_rate == 0.005
    assert not (runs.folder(won) / "trials").exists()


def test_the_winner_is_bit_for_bit_what_a_run_with_its_values_alone_gives(won: Path, plain: Path) -> None:
    assert runs.steps(won / "versions/v1/metrics.jsonl") == runs.steps(plain / "versions/v1/metrics.jsonl")
    assert runs.adapter(won) == runs.adapter(plain)
    assert report(won).lineage.resumed == 0


def test_losers_train_only_as_far_as_they_may(won: Path) -> None:
    """Four trials: all to a quarter of the steps, two of them to half."""
    total = report(won).lineage.target_steps
    decided = json.loads((runs.folder(won) / "trials.json").read_text())["rungs"]
    assert [rung["step"] for rung in decided] == [round(total / 4), round(total / 2)]
    assert [len(rung["losses"]) for rung in decided] == [4, 2]
    assert sorted(row.steps for row in report(won).sweep_trials) == sorted(
        [round(total / 4)] * 2 + [round(total / 2)] * 2
    )


def test_one_trial_is_just_training(tiny: Path, plain: Path, tmp_path: Path) -> None:
    assert runs.carry_out(swept(tmp_path, tiny, plain / "cache", learningRates=["0.005"])) == 0
    assert runs.adapter(tmp_path) == runs.adapter(plain)
    assert [row.chosen for row in report(tmp_path).sweep_trials] == [True]


def before_each_step(action: Any) -> None:
    inner = Loop._step

    def step(self: Loop) -> None:
        action(self)
        inner(self)

    Loop._step = step  # type: ignore[method-assign]  # in a forked child only


def kill_at(trial: str, step: int, by: int = signal.SIGKILL) -> None:
    def at(loop: Loop) -> None:
        if loop.course.folder.name == trial and loop.state.step == step:
            os.kill(os.getpid(), by)

    before_each_step(at)


def same(root: Path, won: Path) -> None:
    assert runs.adapter(root) == runs.adapter(won)
    assert runs.steps(root / "versions/v1/metrics.jsonl") == runs.steps(won / "versions/v1/metrics.jsonl")
    assert report(root).sweep_trials == report(won).sweep_trials


@pytest.mark.parametrize("moment", [("t3", 2), ("t2", 4), ("t2", 9)])
def test_a_kill_in_the_middle_of_a_rung_ends_identically(
    tiny: Path, plain: Path, won: Path, tmp_path: Path, moment: tuple[str, int]
) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert runs.carry_out(path, lambda: kill_at(*moment)) == -signal.SIGKILL
    assert runs.carry_out(path) == 0
    same(tmp_path, won)


@pytest.mark.slow
def test_kills_at_ten_random_moments_change_no_bit(tiny: Path, plain: Path, won: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    chance, kills, longest = random.Random(5), 0, 0.4
    while kills < 10 and not (tmp_path / "versions/v1").exists():
        kills += runs.killed_after(path, chance.uniform(0.0, longest)) == -signal.SIGKILL
        longest += 0.3
    assert kills >= 3
    assert runs.carry_out(path) == 0
    same(tmp_path, won)


def test_a_comparison_that_was_made_is_not_made_again(tiny: Path, plain: Path, won: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert runs.carry_out(path, lambda: kill_at("t2", 9)) == -signal.SIGKILL

    def only_the_winner() -> None:
        before_each_step(lambda loop: os._exit(99) if loop.course.folder.name != "t2" else None)

    assert runs.carry_out(path, only_the_winner) == 0
    same(tmp_path, won)


def test_sigterm_in_a_trial_saves_the_step_it_was_in(tiny: Path, plain: Path, won: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert runs.carry_out(path, lambda: kill_at("t3", 1, signal.SIGTERM)) == Exit.CHECKPOINTED
    assert "step 2 of" in runs.termination(tmp_path)["message"]
    assert runs.carry_out(path) == 0
    same(tmp_path, won)


def poison(*trials: str) -> None:
    def at(loop: Loop) -> None:
        if loop.course.folder.name in trials and loop.state.step >= 1:
            with torch.no_grad():
                next(iter(loop.parameters.values())).fill_(float("nan"))

    before_each_step(at)


def test_a_trial_that_diverges_is_out_and_the_others_go_on(tiny: Path, plain: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert runs.carry_out(path, lambda: poison("t2")) == 0
    rows = report(tmp_path).sweep_trials
    assert "not finite" in rows[1].note
    assert (rows[1].chosen, rows[1].loss) == (False, None)
    assert rows[2].chosen
    assert any("1 diverged" in note for note in report(tmp_path).lineage.notes)


def test_the_next_best_takes_the_place_of_a_winner_that_diverges(tiny: Path, plain: Path, tmp_path: Path) -> None:
    def late() -> None:
        def at(loop: Loop) -> None:
            if loop.course.folder.name == "t2" and loop.state.step >= 10:
                with torch.no_grad():
                    next(iter(loop.parameters.values())).fill_(float("nan"))

        before_each_step(at)

    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert runs.carry_out(path, late) == 0
    rows = report(tmp_path).sweep_trials
    assert [row.chosen for row in rows] == [False, False, True, False]
    assert "not finite" in rows[1].note


def test_when_all_trials_diverge_the_run_diverges(tiny: Path, plain: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert runs.carry_out(path, lambda: poison("t1", "t2", "t3", "t4")) == Exit.DIVERGED
    assert "all trials" in runs.termination(tmp_path)["message"]
    assert not (tmp_path / "versions").exists()


def test_the_gates_rows_are_in_no_trial(tiny: Path, plain: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES[:2], ranks=[8, 16])
    seen = tmp_path / "seen.json"

    def watch() -> None:
        load, found = stage.load, {}

        def loaded(*given: Any) -> Any:
            made = load(*given)
            found["gate"] = sorted(row.example.digest for row in made.data.holdout)
            return made

        def at(loop: Loop) -> None:
            rows = [*loop.course.rows, *loop.course.watched]
            found[loop.course.folder.name] = sorted(row.example.digest for row in rows)
            assert not {row.example.digest for row in loop.course.rows} & {
                r.example.digest for r in loop.course.watched
            }
            seen.write_text(json.dumps(found))

        stage.load = cast("Any", loaded)
        before_each_step(at)

    assert runs.carry_out(path, watch) == 0
    found = json.loads(seen.read_text())
    gate = set(found.pop("gate"))
    assert len(gate) >= 10
    assert set(found) == {"t1", "t2", "t3", "t4"}
    assert all(rows and not gate & set(rows) for rows in found.values())


def test_of_equal_trials_the_cheaper_wins(tiny: Path, plain: Path, tmp_path: Path) -> None:
    """Nothing is learnt at this rate in so few steps that a rank would show: losses are made equal."""
    path = swept(tmp_path, tiny, plain / "cache", ranks=[32, 8])

    def equal() -> None:
        Loop._watched_loss = cast("Any", lambda _: 1.0)  # type: ignore[method-assign]  # in a forked child only

    assert runs.carry_out(path, equal) == 0
    assert [row.chosen for row in report(tmp_path).sweep_trials] == [False, True]
    assert report(tmp_path).lineage.rank == 8
    config = json.loads((tmp_path / "versions/v1/adapter_config.json").read_text())
    assert config["r"] == 8


@pytest.mark.slow
def test_two_ranks_decide_as_one_does(tiny: Path, plain: Path, won: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert crews.carried_out(path) == [0, 0]
    one, two = (json.loads((runs.folder(root) / sweep.FILE).read_text())["rungs"] for root in (won, tmp_path))
    assert [rung["kept"] for rung in one] == [rung["kept"] for rung in two]
    assert [row.chosen for row in report(tmp_path).sweep_trials] == [False, True, False, False]


@pytest.mark.slow
def test_two_ranks_go_on_after_a_trial_that_diverged(tiny: Path, plain: Path, tmp_path: Path) -> None:
    path = swept(tmp_path, tiny, plain / "cache", learningRates=RATES)
    assert crews.carried_out(path, lambda _: poison("t2")) == [0, 0]
    assert report(tmp_path).sweep_trials[2].chosen
