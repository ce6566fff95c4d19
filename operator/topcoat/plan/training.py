"""`training`: runs and attempts. When a run starts, goes on, is tried again, or is over.

Run numbers are never reused; the same inputs never train twice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from topcoat.api import conditions, names, retrain, status
from topcoat.plan import inputs, lifecycle, observed, outcome, progress, shown, waiting
from topcoat.plan.case import Case, Wish
from topcoat.plan.dataset import Sources
from topcoat.plan.intent import Action, Event, Expire, Headline, Inspect, Stage, StartTraining, StopTraining, Word
from topcoat.plan.order import order

C = conditions.Condition
PHASE = conditions.Phase
ADMITTED = Word("True", "Admitted", "the run has its resources")
UNKNOWN = Word("Unknown", "NotYetKnown", conditions.REASONS["NotYetKnown"].meaning)


@dataclass(frozen=True, slots=True)
class Trained:
    """The run as it stands now, and whether the manifest went back to one that was trained before."""

    stage: Stage
    run: status.RunStatus | None
    reverted: bool = False


def stage(case: Case, wish: Wish, sources: Sources) -> Trained:  # noqa: PLR0911 - one return for each state of a run
    """Follows the run at hand, or starts the next one."""
    run = _at_hand(case)
    if _stray(case, run):
        return _stop_stray(case, run)
    wanted = inputs.of(wish, sources.report) if sources.report else None
    judged = outcome.of(case, wish.spec, run) if run else None
    if run and judged and judged.kind is outcome.Kind.ACTIVE:
        return _follow(case, wish, run, inputs.differ(run, wanted, wish))
    if run and judged and judged.kind is outcome.Kind.LOST:
        return _inspect(case, wish, run)
    if run and not run.completion_time:
        run = _closed_if_over(case, run, judged)
    if run and _is_reopened(case, run):
        run = run.model_copy(update={"attempt": run.attempt + 1, "completion_time": None})
        judged = outcome.Outcome(outcome.Kind.NOT_STARTED)
    if wanted and (run is None or inputs.differ(run, wanted, wish)):
        return _next(case, wish, run, wanted)
    if run is None:
        return Trained(Stage(), None)
    run = inputs.renewed(run, wanted)
    if run.completion_time:
        over = _over(case, run, judged)
        return Trained(replace(over, actions=(*over.actions, *_expire(case, wish, run))), run)
    startable = wanted is not None and not case.held(wish.spec)
    return _go_on(case, wish, run, judged) if startable else Trained(_waiting(case, run, judged), run)


def _at_hand(case: Case) -> status.RunStatus | None:
    """The run in status, unless the world is ahead of it: an attempt was started whose status was never written."""
    run, attempt = case.before.run, case.seen.attempt
    if attempt is None or (run and (attempt.run, attempt.number) <= (run.number, run.attempt)):
        return run
    if run and attempt.run == run.number:
        return run.model_copy(update={"attempt": attempt.number, "completion_time": None})
    if run and run.trigger == inputs.REVERTED and attempt.state is observed.AttemptState.ENDED:
        return run
    return status.RunStatus(
        number=max(1, attempt.run),
        attempt=max(1, attempt.number),
        trigger=shown.clip(attempt.trigger, 253),
        input_hash=shown.clip(attempt.input_hash, 253),
        start_time=shown.time(attempt.started_at),
    )


def _stray(case: Case, run: status.RunStatus | None) -> bool:
    """True when an attempt is active that is not the one at hand: two never train at once."""
    attempt = case.seen.attempt
    if attempt is None or attempt.state is observed.AttemptState.ENDED:
        return False
    return run is None or (attempt.run, attempt.number) != (run.number, run.attempt)


def _stop_stray(case: Case, run: status.RunStatus | None) -> Trained:
    attempt = case.seen.attempt
    assert attempt is not None  # noqa: S101 (only an attempt can be stray)
    why = f"attempt {attempt.number} of run {attempt.run} is not wanted any more"
    stop = StopTraining(attempt.run, attempt.number, why)
    return Trained(Stage({}, Headline(PHASE.TRAINING, "Working", "Training", f"waiting: {why}"), (stop,)), run)


def _trained_before(case: Case, run: status.RunStatus) -> bool:
    """True when status already says that this run has trained its tail."""
    known = case.before.run
    return known is not None and known.number == run.number and case.condition(C.TRAINED).status == "True"


def _closed_if_over(case: Case, run: status.RunStatus, judged: outcome.Outcome | None) -> status.RunStatus:
    if judged is None or judged.kind not in (outcome.Kind.SEALED, outcome.Kind.FAILED):
        return run
    attempt = case.seen.attempt
    ended = attempt.ended_at if attempt and attempt.run == run.number and attempt.ended_at else case.now
    resumed = attempt.termination.resumed_from_step if attempt and attempt.termination else None
    found = {"completion_time": shown.time(ended), "resumed_from_step": resumed}
    return run.model_copy(update={name: value for name, value in found.items() if value is not None})


def _is_reopened(case: Case, run: status.RunStatus) -> bool:
    """A failed run is tried again when somebody asks or the manifest was edited (a higher budget, more memory)."""
    if not run.completion_time or _trained_before(case, run) or case.before.run is None:
        return False
    was_over = case.before.run.number == run.number and case.before.run.completion_time is not None
    # A spoilt version keeps its number: only another run can replace it.
    spoilt = case.seen.version_or_none(names.version_name(run.number))
    return was_over and not spoilt and (case.seen.asked or case.edited)


def _next(case: Case, wish: Wish, run: status.RunStatus | None, wanted: inputs.Inputs) -> Trained:
    """Another run, unless a version with these very inputs is there already."""
    alike = [found.version for found in case.seen.versions if found.input_hash == wanted.hash]
    same = [names.run_of(version) for version in alike if case.usable_or_none(version)]
    if same:
        number = max(same)
        now = shown.time(case.now)
        old = inputs.run_status(wanted, number, inputs.REVERTED).model_copy(
            update={"start_time": now, "completion_time": now}
        )
        text = f"the manifest is that of {names.version_name(number)} again; nothing is trained"
        over = _over(case, old, outcome.Outcome(outcome.Kind.SEALED))
        return Trained(replace(over, events=(Event("Normal", inputs.REVERTED, text),)), old, reverted=True)
    trigger = inputs.trigger(run, wanted, wish)
    number = 1 + max(case.seen.highest_run, run.number if run else 0, *_numbers(case))
    started = {"start_time": shown.time(case.now), "profile": shown.clip(case.seen.profile_state, 253)}
    new = inputs.run_status(wanted, number, trigger).model_copy(update=started)
    return _start(case, wish, new, fresh=True)


def _numbers(case: Case) -> list[int]:
    recorded = [names.run_of(version.version) for version in case.before.versions]
    found = [names.run_of(version.version) for version in case.seen.versions]
    return [0, *recorded, *found, case.seen.attempt.run if case.seen.attempt else 0]


def _start(case: Case, wish: Wish, run: status.RunStatus, *, fresh: bool) -> Trained:
    ran_out = 0 if fresh else outcome.times_memory_ran_out(case)
    action = StartTraining(order(case, wish, run, ran_out))
    message = f"run {run.number}, attempt {run.attempt} ({run.trigger or 'Resumed'})"
    events = (Event("Normal", "RunStarted", f"started {message}"),)
    updates: dict[str, Any] = {"progress": None} if fresh else {}
    if case.seen.mode is observed.Mode.CLUSTER:
        suffix = names.attempt_suffix(run.number, run.attempt)
        run = run.model_copy(update={"job_name": names.child_name(case.job.metadata.name, suffix)})
        queued = _queued(case, f"run {run.number}, attempt {run.attempt}", None)
        return Trained(replace(queued, actions=(action,), events=events, updates=updates), run)
    return Trained(_working(message, (action,), events=events, updates=updates), run)


def _working(message: str, actions: tuple[Action, ...], **more: Any) -> Stage:
    words = {
        C.ADMITTED: ADMITTED,
        C.TRAINED: Word("False", "Training", message),
        C.EVALUATED: UNKNOWN,
        C.PROMOTED: UNKNOWN,
    }
    return Stage(words, Headline(PHASE.TRAINING, "Working", "Training", f"{message} is training"), actions, **more)


def _go_on(case: Case, wish: Wish, run: status.RunStatus, judged: outcome.Outcome | None) -> Trained:
    """An open run whose attempt has ended or was never started."""
    if judged is None or judged.kind is not outcome.Kind.AGAIN:
        return _start(case, wish, run, fresh=False)
    if judged.wait_seconds <= 0:
        return _start(case, wish, run.model_copy(update={"attempt": run.attempt + 1}), fresh=False)
    return Trained(replace(_waiting(case, run, judged), look_again_seconds=judged.wait_seconds), run)


def _waiting(case: Case, run: status.RunStatus, judged: outcome.Outcome | None) -> Stage:
    """An open run that may not start now: sources are being looked at, it is held, or it waits after a failure."""
    again = judged is not None and judged.kind is outcome.Kind.AGAIN
    said = judged.message if judged and again else f"run {run.number} goes on from its last checkpoint"
    text = f"attempt {run.attempt} of run {run.number}: {said}"
    reason = "Retrying" if again else "Training"
    words = {C.TRAINED: Word("False", reason, text), C.EVALUATED: UNKNOWN, C.PROMOTED: UNKNOWN}
    return Stage(words, Headline(PHASE.TRAINING, "Working", reason, text), updates=progress.updates(case, run))


def _inspect(case: Case, wish: Wish, run: status.RunStatus) -> Trained:
    """The attempt's last word was lost with its pod: the volume is asked."""
    text = f"run {run.number}, attempt {run.attempt} ended without a word that could be read; the volume is read"
    headline = Headline(PHASE.EVALUATING, "Working", "Inspecting", text)
    return Trained(Stage({}, headline, (Inspect(order(case, wish, run)),)), run)


def _follow(case: Case, wish: Wish, run: status.RunStatus, superseded: bool) -> Trained:
    """An attempt is queued or running: say how far it is, and stop it where it must stop."""
    attempt = case.seen.attempt
    assert attempt is not None  # noqa: S101 (only an attempt makes a run active)
    why = _reason_to_stop(case, wish, attempt, superseded=superseded)
    actions: tuple[Action, ...] = (StopTraining(attempt.run, attempt.number, why),) if why else ()
    left = lifecycle.seconds_left(case, attempt, wish.spec.lifecycle)
    name = f"run {run.number}, attempt {run.attempt}"
    if attempt.state is observed.AttemptState.QUEUED:
        looks = [left, waiting.look_again_seconds(case, attempt.waiting)]
        look = min((seconds for seconds in looks if seconds is not None), default=None)
        return Trained(
            replace(
                _queued(case, name, waiting.lasting_or_none(case, attempt.waiting)),
                actions=actions,
                look_again_seconds=look,
            ),
            run,
        )
    updates = progress.updates(case, run)
    if not progress.is_evaluating(attempt.progress):
        return Trained(_working(name, actions, updates=updates, look_again_seconds=left), run)
    text = f"the candidate of {name} is being judged"
    words = {**_working(name, ()).words, C.EVALUATED: Word("Unknown", "Evaluating", text)}
    headline = Headline(PHASE.EVALUATING, "Working", "Evaluating", text)
    return Trained(Stage(words, headline, actions, updates=updates, look_again_seconds=left), run)


def _queued(case: Case, name: str, wait: observed.Waiting | None) -> Stage:
    """An attempt that has no resources yet, and why."""
    admitted, headline = waiting.said(
        case, name, wait or observed.Waiting(observed.Wait.QUEUE, "", case.now), PHASE.QUEUED
    )
    return Stage({C.ADMITTED: admitted, C.TRAINED: UNKNOWN, C.EVALUATED: UNKNOWN, C.PROMOTED: UNKNOWN}, headline)


def _reason_to_stop(case: Case, wish: Wish, attempt: observed.Attempt, *, superseded: bool) -> str:
    if case.seen.stopping:
        return "stopped at the terminal"
    if wish.spec.suspend:
        return "spec.suspend is true"
    if superseded and wish.spec.retrain.concurrency_policy is retrain.ConcurrencyPolicy.REPLACE:
        return "the manifest asks for another run (retrain.concurrencyPolicy Replace)"
    return lifecycle.overdue(case, attempt, wish.spec.lifecycle)


def _over(case: Case, run: status.RunStatus, judged: outcome.Outcome | None) -> Stage:
    """A run that has ended: sealed, or failed for good."""
    name = names.version_name(run.number)
    sealed = judged is not None and judged.kind is outcome.Kind.SEALED
    if sealed or _trained_before(case, run):
        words = {
            C.TRAINED: Word("True", "Completed", f"run {run.number} trained its tail"),
            C.EVALUATED: Word("True", "Completed", f"{name} was judged and sealed"),
        }
        if not case.held(case.job.spec):
            words[C.ADMITTED] = ADMITTED
        return Stage(words, updates=progress.updates(case, run))
    if judged is not None and judged.kind is outcome.Kind.FAILED:
        return _failed(run, judged)
    said = case.condition(C.TRAINED)
    return _failed(run, outcome.remembered(said.reason, said.message, case.before.failure))


def _expire(case: Case, wish: Wish, run: status.RunStatus) -> tuple[Action, ...]:
    """The finished Jobs of a run may go once status tells how it ended. Before that they are the only witness."""
    seconds, known = wish.spec.lifecycle.ttl_seconds_after_finished, case.before.run
    told = known is not None and (known.number, known.completion_time) == (run.number, run.completion_time)
    cluster = case.seen.mode is observed.Mode.CLUSTER
    return (Expire(run.number, seconds),) if cluster and told and seconds is not None else ()


def _failed(run: status.RunStatus, judged: outcome.Outcome) -> Stage:
    words = {
        C.TRAINED: Word("False", judged.reason, judged.message),
        C.EVALUATED: Word("False", "NotSealed", f"run {run.number} sealed no version"),
        C.PROMOTED: UNKNOWN,
    }
    text = f"run {run.number} failed: {judged.message}"
    return Stage(words, Headline(PHASE.FAILED, "Stuck", judged.reason, text, failure=judged.failure))
