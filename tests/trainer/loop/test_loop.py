"""The loop learns, counts honestly, stops when told and never keeps what is not finite."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import courses
from topcoat.api.method import MethodType
from topcoat_trainer.batches import Batch, Portion
from topcoat_trainer.errors import BudgetExceeded, Diverged, OutOfMemory, Stopped
from topcoat_trainer.loop.course import Around
from topcoat_trainer.loop.loop import Loop, NotFinite


def test_a_run_learns_and_says_how_far_it_is(tiny: Path, tmp_path: Path) -> None:
    course = courses.course(tiny, tmp_path, courses.with_settings(epochs=6, learning_rate=1e-2))
    trained, _ = courses.train(course)
    lines = courses.journal(tmp_path)
    assert trained.steps == trained.target_steps == len(lines) == 30
    assert trained.epochs == 6
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.3
    watched = [line["holdoutLoss"] for line in lines if "holdoutLoss" in line]
    assert len(watched) == 6
    progress = json.loads((tmp_path / "progress.json").read_text())
    assert (progress["currentStep"], progress["totalSteps"], progress["progressPercentage"]) == (30, 30, 80)
    assert {"name", "value"} == set(progress["metrics"][0])


def test_only_what_may_train_has_changed(tiny: Path, tmp_path: Path) -> None:
    course = courses.course(tiny, tmp_path)
    frozen = {name: p.detach().clone() for name, p in course.model.named_parameters() if not p.requires_grad}
    courses.train(course)
    assert frozen
    assert all(torch.equal(p, frozen[name]) for name, p in course.model.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("kind", [MethodType.LORA, MethodType.FULL])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(
    tiny: Path, tmp_path: Path, kind: MethodType
) -> None:
    made = []
    for number, seed in enumerate((3, 3, 4)):
        course = courses.course(tiny, tmp_path / str(number), courses.with_settings(seed=seed), courses.method(kind))
        courses.train(course)
        made.append((courses.weights(course), courses.journal(tmp_path / str(number))))
    assert courses.same(made[0][0], made[1][0])
    assert made[0][1] == made[1][1]
    assert not courses.same(made[0][0], made[2][0])


def test_a_pause_saves_tells_the_loss_and_changes_no_bit(tiny: Path, tmp_path: Path) -> None:
    """The steps of the checkpoints (3, 6, 9) are not those of the pauses."""
    course = courses.course(tiny, tmp_path / "whole")
    courses.train(course)
    whole, lines = courses.weights(course), courses.journal(tmp_path / "whole")
    for step in (0, 4, 5, 10):
        paused = courses.course(tiny, tmp_path / "paused")
        loop = Loop(paused)
        loop.resume()
        told = loop.run(pause_at_step=step)
        assert told.steps == step
        assert loop.store.steps()[-1] == step
        at = [line["holdoutLoss"] for line in lines if line["step"] == step and "holdoutLoss" in line]
        assert not at or told.watched_loss == at[0]
    assert courses.same(courses.weights(paused), whole)
    assert courses.journal(tmp_path / "paused") == lines
    assert loop.run().steps == 10


def test_a_pause_where_the_loss_is_no_number_is_said(tiny: Path, tmp_path: Path) -> None:
    loop = Loop(courses.course(tiny, tmp_path))
    loop.resume()
    with torch.no_grad():
        next(iter(loop.parameters.values())).fill_(float("nan"))
    with pytest.raises(NotFinite, match="held-out loss"):
        loop.run(pause_at_step=0)


@pytest.mark.parametrize(("packing", "portion"), [(False, 4), (True, 1), (True, 2), (False, 1)])
def test_micro_batches_and_packing_change_nothing_but_rounding(
    tiny: Path, tmp_path: Path, packing: bool, portion: int
) -> None:
    reference = courses.course(tiny, tmp_path / "a", courses.with_settings(learning_rate=1e-3))
    courses.train(reference)
    settings = courses.with_settings(learning_rate=1e-3)
    course = courses.course(tiny, tmp_path / "b", settings, packing=packing, portion=Portion(portion, 4096))
    courses.train(course)
    first, second = courses.journal(tmp_path / "a"), courses.journal(tmp_path / "b")
    assert [line["loss"] for line in second] == pytest.approx([line["loss"] for line in first], rel=1e-4)
    assert [line["gradNorm"] for line in second] == pytest.approx([line["gradNorm"] for line in first], rel=1e-3)


def test_the_loss_is_the_mean_over_the_tokens_of_the_step_not_over_its_micro_batches(
    tiny: Path, tmp_path: Path
) -> None:
    course = courses.course(
        tiny, tmp_path, courses.with_settings(rows_per_step=18, max_steps=1), portion=Portion(5, 4096)
    )
    whole, learnt = 0.0, 0
    with torch.no_grad():
        for row in course.rows:
            logits = course.model(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(-1)
            for index, trained in enumerate(row.trained):
                if trained and index:
                    whole -= float(logits[index - 1, row.ids[index]])
                    learnt += 1
    courses.train(course)
    assert courses.journal(tmp_path)[0]["loss"] == pytest.approx(whole / learnt, rel=1e-5)


def test_max_steps_ends_a_run_before_its_epochs(tiny: Path, tmp_path: Path) -> None:
    trained, _ = courses.train(courses.course(tiny, tmp_path, courses.with_settings(max_steps=7)))
    assert (trained.steps, trained.target_steps) == (7, 7)
    assert "holdoutLoss" in courses.journal(tmp_path)[-1]


def test_early_stopping_keeps_the_weights_of_the_best_step(tiny: Path, tmp_path: Path) -> None:
    settings = courses.with_settings(epochs=30, learning_rate=5e-2, patience=2, checkpoint_interval_steps=1000)
    course = courses.course(tiny, tmp_path, settings)
    at_step: dict[int, dict[str, torch.Tensor]] = {}
    trained, loop = courses.train(course, lambda loop: at_step.update({loop.state.step: courses.weights(course)}))
    assert trained.steps == trained.target_steps < 150
    assert loop.state.best_step < trained.steps
    assert courses.same(courses.weights(course), at_step[loop.state.best_step])
    assert "stopped early" in trained.notes[0]
    again = courses.course(tiny, tmp_path, settings)
    resumed, _ = courses.train(again)
    assert resumed.resumed_from_step == trained.steps == resumed.steps
    assert courses.same(courses.weights(course), courses.weights(again))


def test_a_stop_saves_the_step_and_the_resumed_run_ends_with_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    how = courses.method(dropout="0.1")
    reference = courses.course(tiny, tmp_path / "a", how=how)
    courses.train(reference)

    def stop_at_four(loop: Loop) -> None:
        if loop.state.step == 4:
            loop.course.stop.ask()

    with pytest.raises(Stopped, match="step 5 of 10"):
        courses.train(courses.course(tiny, tmp_path / "b", how=how), stop_at_four)
    course = courses.course(tiny, tmp_path / "b", how=how)
    trained, _ = courses.train(course)
    assert (trained.resumed_from_step, trained.resumed) == (5, 1)
    assert courses.same(courses.weights(reference), courses.weights(course))
    assert courses.journal(tmp_path / "a") == courses.journal(tmp_path / "b")


def test_a_budget_that_is_used_up_saves_a_checkpoint(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(BudgetExceeded, match="step 1 of 10 is saved"):
        courses.train(courses.course(tiny, tmp_path, courses.with_settings(budget_seconds=1e-9)))
    trained, _ = courses.train(courses.course(tiny, tmp_path))
    assert trained.resumed_from_step == 1


def poison(loop: Loop) -> None:
    with torch.no_grad():
        next(iter(loop.parameters.values())).fill_(float("nan"))


def test_one_bad_bit_goes_back_to_the_last_checkpoint_and_the_run_ends_as_ever(tiny: Path, tmp_path: Path) -> None:
    reference = courses.course(tiny, tmp_path / "a")
    courses.train(reference)
    struck: list[int] = []

    def once(loop: Loop) -> None:
        if loop.state.step == 5 and not struck:
            struck.append(5)
            poison(loop)

    course = courses.course(tiny, tmp_path / "b")
    trained, _ = courses.train(course, once)
    assert "went back to the checkpoint of step 3" in trained.notes[0]
    assert courses.same(courses.weights(reference), courses.weights(course))
    assert courses.journal(tmp_path / "a") == courses.journal(tmp_path / "b")


def test_a_run_that_stays_not_finite_is_diverged_and_no_checkpoint_is_poisoned(tiny: Path, tmp_path: Path) -> None:
    def always(loop: Loop) -> None:
        if loop.state.step == 5:
            poison(loop)

    with pytest.raises(Diverged, match=r"not finite.*learningRate"):
        courses.train(courses.course(tiny, tmp_path), always)
    found = courses.train(courses.course(tiny, tmp_path))[1].store.newest()
    assert found is not None
    assert all(bool(tensor.isfinite().all()) for tensor in found.weights.values())


def test_not_finite_before_the_first_checkpoint_is_diverged_at_once(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match="step 1 is not finite"):
        courses.train(courses.course(tiny, tmp_path), poison)


def test_a_gradient_and_a_weight_that_overflow_are_noticed(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"(weight|loss|gradient) of step \d+ is not finite"):
        courses.train(courses.course(tiny, tmp_path, courses.with_settings(learning_rate=1e38, max_grad_norm=0.0)))


def test_a_run_that_learns_nothing_is_diverged(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(Diverged, match=r"nothing was learnt.*learningRate"):
        courses.train(courses.course(tiny, tmp_path, courses.with_settings(learning_rate=0.0)))


def memory_for(tokens: int) -> Around:
    """Stands for a device that holds a batch of so many tokens."""

    @contextlib.contextmanager
    def around(batch: Batch) -> Iterator[None]:
        if batch.tokens > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        yield

    return around


def test_when_memory_runs_out_the_micro_batch_is_halved_at_the_same_effective_batch(tiny: Path, tmp_path: Path) -> None:
    reference = courses.course(tiny, tmp_path / "a")
    courses.train(reference)
    course = courses.course(tiny, tmp_path / "b", around=memory_for(48))
    trained, loop = courses.train(course)
    assert loop.state.portion.rows in (1, 2)
    assert "memory ran out with 4 rows" in trained.notes[0]
    first, second = courses.journal(tmp_path / "a"), courses.journal(tmp_path / "b")
    assert [line["loss"] for line in second] == pytest.approx([line["loss"] for line in first], rel=1e-3)
    assert [line["tokens"] for line in second] == [line["tokens"] for line in first]


def test_a_single_row_that_does_not_fit_is_out_of_memory(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match=r"1 rows.*maxSequenceLength"):
        courses.train(courses.course(tiny, tmp_path, around=memory_for(3)))


def test_out_of_memory_may_be_told_to_fail_at_once(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="4 rows"):
        courses.train(
            courses.course(tiny, tmp_path, courses.with_settings(reduce_micro_batch=False), around=memory_for(10))
        )


def test_another_error_in_the_forward_pass_is_not_taken_for_lack_of_memory(tiny: Path, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def around(_: Batch) -> Iterator[None]:
        raise RuntimeError("shape mismatch")
        yield

    with pytest.raises(RuntimeError, match="shape mismatch"):
        courses.train(courses.course(tiny, tmp_path, around=around))
