"""`lifecycle` and `suspend`: how long a run may take, how long it waits between attempts, and when it is held."""

from __future__ import annotations

from topcoat.api import conditions, finetunejob
from topcoat.api import lifecycle as lifecycles
from topcoat.plan import observed
from topcoat.plan.case import Case
from topcoat.plan.intent import Headline, Stage, Word

FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 300.0


def wait_seconds(failures: int) -> float:
    """Time between the end of an attempt and the next one."""
    return min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(max(failures - 1, 0), 20)) if failures else 0.0


def active_seconds(case: Case, attempt: observed.Attempt) -> float:
    """How long the run's attempts took together, without the time between them."""
    end = attempt.ended_at or case.now
    return attempt.earlier_seconds + max(0.0, (end - attempt.started_at).total_seconds())


def overdue(case: Case, attempt: observed.Attempt, rules: lifecycles.Lifecycle) -> str:
    """Which deadline has passed, in words; empty when none has."""
    running, queued = rules.active_deadline_seconds, rules.queue_deadline_seconds
    if attempt.state is observed.AttemptState.QUEUED:
        waited = (case.now - attempt.started_at).total_seconds()
        if queued is not None and waited >= queued:
            return f"waited {waited:.0f} s for resources; lifecycle.queueDeadlineSeconds is {queued}"
        return ""
    taken = active_seconds(case, attempt)
    if running is not None and taken >= running:
        return f"ran {taken:.0f} s; lifecycle.activeDeadlineSeconds is {running}"
    return ""


def seconds_left(case: Case, attempt: observed.Attempt, rules: lifecycles.Lifecycle) -> float | None:
    """Time to the next deadline of an active attempt."""
    if attempt.state is observed.AttemptState.QUEUED:
        waited = (case.now - attempt.started_at).total_seconds()
        return None if rules.queue_deadline_seconds is None else max(0.0, rules.queue_deadline_seconds - waited)
    if rules.active_deadline_seconds is None:
        return None
    return max(0.0, rules.active_deadline_seconds - active_seconds(case, attempt))


def stage(case: Case, spec: finetunejob.FineTuneJobSpec) -> Stage:
    """Held: suspended by the manifest, or stopped at the terminal."""
    if not case.held(spec):
        return Stage()
    serves = f"; {case.seen.alias.version} serves on" if _ours(case) and case.seen.alias else ""
    if spec.suspend:
        message = f"spec.suspend is true: nothing runs{serves}"
        words = {conditions.Condition.ADMITTED: Word("False", "Suspended", message)}
        return Stage(words=words, headline=_headline("Suspended", message, ready=bool(serves)))
    message = f"stopped at the terminal; the run goes on from its last checkpoint with `topcoat run`{serves}"
    return Stage(headline=_headline("Checkpointed", message, ready=False))


def _ours(case: Case) -> bool:
    return case.seen.alias is not None and case.seen.alias.job == case.job.metadata.name


def _headline(reason: str, message: str, *, ready: bool) -> Headline:
    return Headline(phase=conditions.Phase.SUSPENDED, kind="Settled", reason=reason, message=message, ready=ready)
