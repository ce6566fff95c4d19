"""`layers: Auto`: trials choose, on rows of the training side; what they chose is kept and told."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from tests.support import crews, runs
from topcoat.api.report import EvaluationReport
from topcoat_trainer import depth, files, layer_trial, stage
from topcoat_trainer.errors import OutOfMemory
from topcoat_trainer.loop.loop import Loop

EVALUATION: dict[str, Any] = {"generation": {"maxTokens": 2}, "baselines": []}
TRAINING: dict[str, Any] = {
    "epochs": 4,
    "effectiveBatchSize": 8,
    "learningRate": "0.005",
    "maxSequenceLength": 128,
    "earlyStopping": {"patience": 100},
}


def told(root: Path, model: Path, cache: Path, count: int = 90, **changes: Any) -> Path:
    """A run of enough rows for trials."""
    root.mkdir(exist_ok=True)
    runs.write_rows(root / "data.jsonl", runs.rows(count, seed=3))
    given: dict[str, Any] = {"training": TRAINING, "method": {"layers": "Auto"}, "evaluation": EVALUATION, **changes}
    return runs.run_file(root, model, cache=cache, **given)


def report(root: Path, number: int = 1) -> EvaluationReport:
    return EvaluationReport.model_validate(files.read_json(root / f"versions/v{number}/evaluation.json"))


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    """Trials shorter than is wise: here it counts what is done with them, not what they say."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(depth, "FEWEST_STEPS", 4)
        patch.setattr(depth, "FEWEST_ROWS", 60)
        yield


@pytest.fixture(scope="module")
def chosen(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("chosen")
    assert runs.carry_out(told(root, tiny, root / "cache")) == 0
    return root


def test_trials_of_few_and_many_layers_choose_and_are_told(chosen: Path) -> None:
    found = report(chosen)
    assert [row.layers for row in found.layer_trials] == [2, 3]
    assert [row.steps for row in found.layer_trials] == [4, 4]
    assert [row.relative_cost for row in found.layer_trials] == [1.0, 1.5]
    (winner,) = [row for row in found.layer_trials if row.chosen]
    assert winner.gain_share >= 0.95
    assert found.lineage.total_layers - found.lineage.first_trained_layer == winner.layers
    assert any(note.startswith(f"layers: the last {winner.layers} of 5 layers, chosen") for note in found.lineage.notes)
    assert "Choosing" in {cost.stage for cost in found.costs}
    assert not (runs.folder(chosen) / "layers").exists()


def test_what_is_chosen_is_trained_as_if_it_had_been_asked_for(tiny: Path, chosen: Path, tmp_path: Path) -> None:
    (winner,) = [row.layers for row in report(chosen).layer_trials if row.chosen]
    assert runs.carry_out(told(tmp_path, tiny, chosen / "cache", method={"layers": winner})) == 0
    assert runs.adapter(tmp_path) == runs.adapter(chosen)
    assert report(tmp_path).layer_trials == []


def before_each_step(action: Any) -> None:
    inner = Loop._step

    def step(self: Loop) -> None:
        action(self)
        inner(self)

    Loop._step = step  # type: ignore[method-assign]  # in a forked child only


def kill_at(folder: str, step: int) -> None:
    def at(loop: Loop) -> None:
        if loop.course.folder.name == folder and loop.state.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    before_each_step(at)


@pytest.mark.slow
@pytest.mark.parametrize("moment", [("2", 2), ("3", 3), ("r1", 9)])
def test_a_kill_in_a_trial_or_after_it_ends_identically(
    tiny: Path, chosen: Path, tmp_path: Path, moment: tuple[str, int]
) -> None:
    path = told(tmp_path, tiny, chosen / "cache")
    assert runs.carry_out(path, lambda: kill_at(*moment)) == -signal.SIGKILL
    assert runs.carry_out(path) == 0
    assert report(tmp_path).layer_trials == report(chosen).layer_trials
    assert runs.adapter(tmp_path) == runs.adapter(chosen)


def test_what_was_chosen_is_not_chosen_again(tiny: Path, chosen: Path, tmp_path: Path) -> None:
    path = told(tmp_path, tiny, chosen / "cache")
    assert runs.carry_out(path, lambda: kill_at("r1", 4)) == -signal.SIGKILL

    def no_trial() -> None:
        before_each_step(lambda loop: os._exit(99) if loop.course.folder.parent.name == "layers" else None)

    assert runs.carry_out(path, no_trial) == 0
    assert runs.adapter(tmp_path) == runs.adapter(chosen)


@pytest.mark.parametrize("stopping", [True, False])
def test_the_gates_rows_are_in_no_trial(tiny: Path, chosen: Path, tmp_path: Path, stopping: bool) -> None:
    """With early stopping the rows set aside are its own; without, the chosen layers learn from them afterwards."""
    training = TRAINING if stopping else {name: value for name, value in TRAINING.items() if name != "earlyStopping"}
    path, seen = told(tmp_path, tiny, chosen / "cache", training=training), tmp_path / "seen.json"

    def watch() -> None:
        load, found = stage.load, {}

        def loaded(*given: Any) -> Any:
            made = load(*given)
            found["gate"] = [row.example.digest for row in made.data.holdout]
            return made

        taken = Loop._watched_loss

        def watched(loop: Loop) -> float:
            name = loop.course.folder.name
            found[f"{name} watched"] = [row.example.digest for row in loop.course.watched]
            found[f"{name} rows"] = [row.example.digest for row in loop.course.rows]
            seen.write_text(json.dumps(found))
            return taken(loop)

        stage.load = cast("Any", loaded)
        Loop._watched_loss = cast("Any", watched)  # type: ignore[method-assign]  # in a forked child only

    assert runs.carry_out(path, watch) == 0
    found = {name: set(digests) for name, digests in json.loads(seen.read_text()).items()}
    for name in ("untrained", "2", "3"):
        rows, watched = found[f"{name} rows"], found[f"{name} watched"]
        assert len(watched) >= 10
        assert not watched & rows
        assert not found["gate"] & (watched | rows)
    assert found["2 watched"].isdisjoint(found["r1 rows"]) is stopping
    assert (found["r1 watched"] <= found["gate"]) is not stopping


@pytest.mark.parametrize(
    ("count", "training", "why"),
    [(48, {}, "rows are too few for trials"), (90, {"maxSteps": 20}, "20 optimizer steps are too few")],
)
def test_small_runs_take_the_layers_by_the_kind_of_data_and_say_so(
    tiny: Path, tmp_path: Path, count: int, training: dict[str, Any], why: str
) -> None:
    path = told(tmp_path, tiny, tmp_path / "cache", count, training={**TRAINING, **training})
    assert runs.carry_out(path) == 0
    found = report(tmp_path)
    assert found.layer_trials == []
    assert found.lineage.first_trained_layer == 3  # an eighth, two at least
    assert any(why in note for note in found.lineage.notes)


def test_a_candidate_that_diverges_is_not_chosen(tiny: Path, chosen: Path, tmp_path: Path) -> None:
    def poison() -> None:
        def at(loop: Loop) -> None:
            if loop.course.folder.name == "2" and loop.state.step >= 2:
                with torch.no_grad():
                    next(iter(loop.parameters.values())).fill_(float("nan"))

        before_each_step(at)

    assert runs.carry_out(told(tmp_path, tiny, chosen / "cache"), poison) == 0
    rows = report(tmp_path).layer_trials
    assert [(row.layers, row.loss is None, row.chosen) for row in rows] == [(2, True, False), (3, False, True)]
    assert "not finite" in rows[0].note


def test_a_candidate_that_does_not_fit_memory_is_not_chosen(tiny: Path, chosen: Path, tmp_path: Path) -> None:
    def short() -> None:
        def at(loop: Loop) -> None:
            if loop.course.folder.name == "3":
                raise OutOfMemory("memory ran out with 1 rows in a forward pass")

        before_each_step(at)

    assert runs.carry_out(told(tmp_path, tiny, chosen / "cache"), short) == 0
    rows = report(tmp_path).layer_trials
    assert [(row.layers, row.note[:15], row.chosen) for row in rows] == [(2, "", True), (3, "memory ran out ", False)]


@pytest.mark.slow
def test_layers_are_chosen_first_and_then_swept(tiny: Path, chosen: Path, tmp_path: Path) -> None:
    training = {name: value for name, value in TRAINING.items() if name not in ("learningRate", "earlyStopping")}
    training["sweep"] = {"learningRates": ["0.00001", "0.005", "0.0001"]}
    path, seen = told(tmp_path, tiny, chosen / "cache", training=training), tmp_path / "seen"

    def watch() -> None:
        def at(loop: Loop) -> None:
            with seen.open("a") as file:
                file.write(f"{loop.course.folder.name} {loop.course.settings.learning_rate:g}\n")

        before_each_step(at)

    assert runs.carry_out(path, watch) == 0
    found = report(tmp_path)
    assert [row.chosen for row in found.sweep_trials] == [False, True, False]
    assert [row.layers for row in found.layer_trials] == [2, 3]
    order = list(dict.fromkeys(seen.read_text().splitlines()))
    assert order[:5] == ["2 0.0001", "3 0.0001", "t1 1e-05", "t2 0.005", "t3 0.0001"]


@pytest.mark.slow
def test_a_run_from_the_promoted_weights_keeps_their_layers(tiny: Path, chosen: Path, tmp_path: Path) -> None:
    root = tmp_path
    path = told(root, tiny, chosen / "cache", method={"layers": 4})
    assert runs.carry_out(path) == 0
    serving = {
        "version": "v1",
        "path": str(root / "versions/v1"),
        "digest": runs.termination(root)["digest"],
    }
    path = told(root, tiny, chosen / "cache", run=2, startFrom="Promoted", serving=serving)
    assert runs.carry_out(path) == 0
    assert report(root, 2).lineage.first_trained_layer == 1
    assert any("as in the version that training starts from" in note for note in report(root, 2).lineage.notes)


@pytest.mark.slow
def test_two_ranks_choose_as_one_does(tiny: Path, chosen: Path, tmp_path: Path) -> None:
    path = told(tmp_path, tiny, chosen / "cache")
    assert crews.carried_out(path) == [0, 0]
    one, two = report(chosen).layer_trials, report(tmp_path).layer_trials
    assert [row.chosen for row in one] == [row.chosen for row in two]
    assert [row.loss for row in two] == pytest.approx([row.loss for row in one], rel=1e-4)
    assert layer_trial.FILE in {path.name for path in runs.folder(tmp_path).iterdir()}
