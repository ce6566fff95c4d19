"""What follows when an attempt fails, stops, takes too long, or says what is not true."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tests.support.worlds import START, Trainer, World, ends_with, sealed
from topcoat.api import exits, promotion, report
from topcoat.plan import intent, observed, status

NEVER = [meaning for meaning in exits.MEANINGS if meaning.retry is exits.Retry.NEVER]
RESUME = [meaning for meaning in exits.MEANINGS if meaning.retry is exits.Retry.RESUME]


def in_turn(*codes: int | None) -> Trainer:
    """A trainer whose attempts end with these codes; then it wins."""
    left = list(codes)

    def trainer(order: intent.Order) -> tuple[int | None, promotion.Verdict | None]:
        return (left.pop(0), None) if left else (0, promotion.Verdict.PROMOTE)

    return trainer


def settled(trainer: Trainer, **spec: object) -> World:
    world = World(trainer=trainer)
    world.change(**spec)
    world.settle()
    return world


@pytest.mark.parametrize("meaning", NEVER, ids=lambda meaning: meaning.reason)
def test_what_another_attempt_cannot_mend_is_not_tried_again(meaning: exits.ExitMeaning) -> None:
    world = settled(ends_with(meaning.code.value))
    assert len(world.orders) == 1
    assert world.condition("Stalled") == ("True", meaning.reason)
    assert world.status.failure is not None
    assert (world.status.failure.category, world.status.failure.hint) == (meaning.category, meaning.hint)
    assert world.status.phase == "Failed"
    assert status.exit_code(world.status) is exits.CliExit.ERROR


@pytest.mark.parametrize("meaning", RESUME, ids=lambda meaning: meaning.reason)
def test_what_another_attempt_may_mend_is_tried_again_in_the_same_run(meaning: exits.ExitMeaning) -> None:
    world = settled(in_turn(meaning.code.value, meaning.code.value))
    assert [(order.run, order.attempt) for order in world.orders] == [(1, 1), (1, 2), (1, 3)]
    assert world.status.served_version == "v1"
    assert world.status.failure is None


def test_the_wait_between_attempts_doubles() -> None:
    world = World(trainer=in_turn(1, 1, 1))
    world.settle()
    assert (world.now - START).total_seconds() > 5 + 10 + 20


def test_the_back_off_limit_ends_a_run_with_the_last_message() -> None:
    world = settled(ends_with(1), lifecycle={"backoffLimit": 2})
    assert len(world.orders) == 3
    assert world.condition("Stalled") == ("True", "BackoffLimitExceeded")
    assert world.condition("Trained") == ("False", "BackoffLimitExceeded")
    assert "3 attempts failed" in (world.status.failure.message if world.status.failure else "")


def test_stopping_at_checkpoints_is_no_failure() -> None:
    world = settled(in_turn(19, 19, 19, 19, 19, 19))
    assert len(world.orders) == 7
    assert world.status.served_version == "v1"


def test_a_trainer_that_is_gone_without_a_word_is_resumed() -> None:
    assert settled(in_turn(None, -9, 137)).status.served_version == "v1"


def test_exit_0_without_a_sealed_version_is_a_failure() -> None:
    world = settled(ends_with(0))
    assert world.condition("Stalled") == ("True", "NotSealed")
    assert world.condition("Evaluated") == ("False", "NotSealed")
    assert world.seen.alias is None


@pytest.mark.parametrize("code", [1, 13, 19, 137, None])
def test_a_sealed_version_is_success_whatever_the_exit_code(code: int | None) -> None:
    assert settled(ends_with(code, promotion.Verdict.PROMOTE)).status.served_version == "v1"


def test_memory_that_runs_out_halves_the_micro_batch() -> None:
    world = settled(in_turn(13, 13), training={"microBatchSize": 8})
    assert [order.spec.training.micro_batch_size for order in world.orders] == [8, 4, 2]
    assert {order.input_hash for order in world.orders} == {world.orders[0].input_hash}


def test_memory_that_runs_out_may_end_the_run() -> None:
    world = settled(ends_with(13), lifecycle={"onOutOfMemory": "Fail"})
    assert len(world.orders) == 1
    assert world.condition("Stalled") == ("True", "OutOfMemory")


def test_a_corrupt_candidate_is_never_served() -> None:
    world = World()
    world.settle()
    world.seen = replace(world.seen, alias=None, versions=(replace(sealed(1), valid=False, problem="cut short"),))
    world.job = world.job.model_copy(update={"status": None})
    world.run_again()
    assert world.seen.alias is None
    assert world.status.versions == ()
    assert world.condition("Stalled") == ("True", "FileCorrupt")
    assert len(world.orders) == 1


def test_a_failed_run_is_tried_again_when_somebody_asks() -> None:
    world = settled(in_turn(14))
    assert world.status.phase == "Failed"
    world.settle()
    assert len(world.orders) == 1
    world.run_again()
    assert [(order.run, order.attempt) for order in world.orders] == [(1, 1), (1, 2)]
    assert world.status.phase == "Ready"


def test_a_failed_run_is_tried_again_when_the_manifest_was_edited() -> None:
    world = settled(in_turn(18), budget={"maxGPUHours": "1"})
    assert world.condition("Stalled") == ("True", "BudgetExceeded")
    world.change(budget={"maxGPUHours": "2"})
    world.settle()
    assert [(order.run, order.attempt) for order in world.orders] == [(1, 1), (1, 2)]
    assert world.orders[-1].budget is not None
    assert world.orders[-1].budget.max_gpu_hours == "2"
    assert world.status.served_version == "v1"


def test_a_failed_prepare_names_the_rows_and_trains_nothing() -> None:
    world = World()
    world.step()
    key = world.seen.prepared.key if world.seen.prepared else ""
    said = report.Termination(outcome=report.Outcome.FAILED, exit_code=11, message="row 7: no answer", hint="mend it")
    world.seen = replace(world.seen, prepared=observed.Prepared(key, world.now, None, 11, said, 1))
    world.settle()
    assert world.orders == []
    assert world.condition("DatasetValid") == ("False", "DatasetInvalid")
    assert world.condition("Stalled") == ("True", "DatasetInvalid")
    assert world.status.failure is not None
    assert (world.status.failure.message, world.status.failure.hint) == ("row 7: no answer", "mend it")


def test_an_unreachable_source_is_asked_again_later() -> None:
    world = World()
    world.step()
    key = world.seen.prepared.key if world.seen.prepared else ""
    world.seen = replace(world.seen, prepared=observed.Prepared(key, world.now, None, 17, None, 1))
    planned = world.step()
    assert planned.actions == ()
    assert planned.look_again_seconds is not None
    assert world.condition("Reconciling") == ("True", "Retrying")
    world.now += timedelta(seconds=planned.look_again_seconds)
    assert isinstance(world.step().actions[0], intent.StartPrepare)


def running(world: World, **fields: object) -> World:
    """The world with the first attempt under way."""
    world.step()
    plan = world.step()
    order = plan.actions[0].order if isinstance(plan.actions[0], intent.StartTraining) else None
    assert order is not None
    attempt = observed.Attempt(1, 1, observed.AttemptState.RUNNING, world.now, input_hash=order.input_hash)
    world.seen = replace(world.seen, versions=(), attempt=replace(attempt, **fields))  # type: ignore[arg-type] # tests name real fields
    return world


def test_progress_is_ready_to_be_shown() -> None:
    metric = report.ProgressMetric(name="loss", value="1.23")
    progress = report.Progress(stage="Training", progress_percentage=45, estimated_remaining_seconds=190,
                               metrics=[metric], current_step=9, total_steps=20)  # fmt: skip
    world = running(World(), progress=progress)
    assert world.step().actions == ()
    shown = world.status.progress
    assert shown is not None
    assert (shown.percent, shown.eta, shown.loss) == ("45%", "3m10s", "1.23")
    assert world.status.phase == "Training"
    assert world.condition("Admitted") == ("True", "Admitted")


def test_judging_the_candidate_is_a_phase_of_its_own() -> None:
    world = running(World(), progress=report.Progress(stage="Evaluating", progress_percentage=90))
    world.step()
    assert world.status.phase == "Evaluating"


def test_a_deadline_stops_a_run_at_a_checkpoint_and_ends_it() -> None:
    world = World()
    world.change(lifecycle={"activeDeadlineSeconds": 100})
    world = running(world, earlier_seconds=60.0)
    assert world.step().look_again_seconds == 40
    world.now += timedelta(seconds=60)
    assert isinstance(world.step().actions[0], intent.StopTraining)
    world.settle()
    assert world.condition("Stalled") == ("True", "DeadlineExceeded")
    assert len(world.orders) == 1


def test_waiting_for_resources_has_a_deadline_of_its_own() -> None:
    world = World()
    world.change(lifecycle={"queueDeadlineSeconds": 30})
    world = running(world, state=observed.AttemptState.QUEUED)
    world.step()
    assert world.status.phase == "Queued"
    assert world.condition("Admitted") == ("False", "Queued")
    world.now += timedelta(seconds=40)
    assert isinstance(world.step().actions[0], intent.StopTraining)


def test_suspend_stops_at_a_checkpoint_and_resuming_goes_on() -> None:
    world = running(World())
    world.change(suspend=True)
    world.settle()
    assert isinstance(world.done[-1], intent.StopTraining)
    assert world.status.phase == "Suspended"
    assert world.condition("Admitted") == ("False", "Suspended")
    assert status.exit_code(world.status) is exits.CliExit.INTERRUPTED
    world.change(suspend=False)
    world.settle()
    assert [(order.run, order.attempt) for order in world.orders] == [(1, 1), (1, 2)]
    assert world.status.served_version == "v1"


def test_suspended_from_the_start_does_nothing() -> None:
    world = settled(in_turn(), suspend=True)
    assert world.done == []


def test_a_stop_at_the_terminal_goes_on_with_the_next_run() -> None:
    world = running(World())
    world.seen = replace(world.seen, stopping=True)
    world.settle()
    assert status.exit_code(world.status) is exits.CliExit.INTERRUPTED
    world.seen = replace(world.seen, stopping=False, attempt=replace(world.seen.attempt, exits=()))  # type: ignore[type-var]
    world.run_again()
    assert world.orders[-1].attempt == 2
    assert world.status.served_version == "v1"


def test_an_edit_in_mid_run_waits_or_replaces_as_the_policy_says() -> None:
    for policy, expected in (("Forbid", 0), ("Replace", 1)):
        world = running(World())
        world.change(training={"epochs": 9}, retrain={"concurrencyPolicy": policy})
        world.step()
        stops = [action for action in world.step().actions if isinstance(action, intent.StopTraining)]
        assert len(stops) == expected
    world.settle()
    assert [order.run for order in world.orders] == [1, 2]
    assert world.status.served_version == "v2"


def test_two_attempts_never_train_at_once() -> None:
    world = running(World())
    assert world.seen.attempt is not None
    world.seen = replace(world.seen, attempt=replace(world.seen.attempt, run=1, number=1), highest_run=4)
    stray = world.status.run
    assert stray is not None
    ahead = world.status.model_copy(update={"run": stray.model_copy(update={"number": 3})})
    world.job = world.job.model_copy(update={"status": ahead})
    planned = world.step()
    assert [type(action) for action in planned.actions] == [intent.StopTraining]


def test_a_started_attempt_whose_status_was_never_written_is_followed() -> None:
    world = running(World())
    world.job = world.job.model_copy(update={"status": None})
    planned = world.step()
    assert planned.actions == ()
    assert world.status.run is not None
    assert world.status.run.number == 1


def test_a_version_sealed_by_a_trainer_that_still_runs_waits_for_its_last_word() -> None:
    world = running(World())
    world.seen = replace(world.seen, versions=(sealed(1),))
    assert world.step().actions == ()
    assert world.status.run is not None
    assert world.status.run.completion_time is None
    assert world.seen.attempt is not None
    word = report.Termination(outcome=report.Outcome.SEALED, version="v1", resumed_from_step=6)
    ended = replace(
        world.seen.attempt, state=observed.AttemptState.ENDED, ended_at=world.now, exit_code=0, termination=word
    )
    world.seen = replace(world.seen, attempt=ended)
    world.settle()
    assert world.status.served_version == "v1"
    assert world.status.run.resumed_from_step == 6
