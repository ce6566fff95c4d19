"""`status`: what all stages say, told once. Conditions follow kstatus; a transition is a change of `status` alone.

Also the exit code that a status means for CI.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from topcoat.api import conditions, exits, finetunejob
from topcoat.api import status as statuses
from topcoat.plan import shown
from topcoat.plan.case import Case, Wish
from topcoat.plan.intent import Event, Headline, Kind, Stage, Word

C = conditions.Condition
PHASE = conditions.Phase
IDLE = Word("False", "Idle", "nothing needs to be done")
NEWS = (C.DATASET_VALID, C.TRAINED, C.PROMOTED, C.SERVING, C.STALLED)
"""Conditions whose transitions are events."""
NO_NEWS = ("Training", "Idle", "NothingToServe", "RollingOut", "Canary")
"""Reasons that say nothing new: other events tell of them."""


def opened(job: finetunejob.FineTuneJob, now: datetime) -> statuses.FineTuneJobStatus:
    """The status so far; conditions that nobody spoke of yet are Unknown."""
    before = job.status or statuses.FineTuneJobStatus()
    known = {condition.type: condition for condition in before.conditions}
    meaning = conditions.REASONS["NotYetKnown"].meaning
    blank = {"status": "Unknown", "reason": "NotYetKnown", "message": meaning, "last_transition_time": shown.time(now)}
    full = tuple(known.get(kind) or statuses.ConditionStatus(type=kind, **blank) for kind in C)
    return before.model_copy(update={"conditions": full})


def refused(wish: Wish) -> Stage:
    """The profile or the mode says no."""
    if wish.refusal is None:
        return Stage()
    said = wish.refusal
    failure = statuses.Failure(
        category=exits.Category.USER_INPUT,
        message=shown.clip(said.message),
        hint="change the field that the message names, or ask the platform team for another limit",
    )
    return Stage(headline=Headline(PHASE.FAILED, "Stuck", said.reason, said.message, failure=failure))


def settled(stages: Sequence[Stage]) -> Stage:
    """Nothing is going on and nothing is wrong: the decision is the headline."""
    words = _words(stages)
    decision, serving = words.get(C.PROMOTED), words.get(C.SERVING)
    if decision is None or decision.reason == "NotYetKnown":
        text = "seen, nothing done yet"
        return Stage(headline=Headline(PHASE.PENDING, "Working", "NotYetKnown", text))
    promoted = any(stage.updates.get("promoted_version") for stage in stages)
    off = serving is not None and serving.reason == "ServingOff"
    ready = promoted if off else serving is not None and serving.status == "True"
    waiting = decision.reason == "AwaitingApproval"
    phase = PHASE.AWAITING_APPROVAL if waiting else PHASE.READY if ready else PHASE.REJECTED
    if decision.reason == "PromotionOff":
        phase, ready = PHASE.READY, True
    pinned = serving if serving is not None and serving.reason == "Pinned" and decision.status == "True" else None
    reason, text = (pinned.reason, pinned.message) if pinned else (decision.reason, decision.message)
    # Nothing serves and nothing will by itself: for GitOps tools that is a failure, not patience.
    kind: Kind = "Stuck" if phase is PHASE.REJECTED else "Settled"
    return Stage(headline=Headline(phase, kind, reason, text, ready=ready))


def told(case: Case, stages: Sequence[Stage]) -> tuple[statuses.FineTuneJobStatus, tuple[Event, ...]]:
    """The new status, and one event per transition."""
    headline = next(stage.headline for stage in stages if stage.headline)
    words = {**_words(stages), **_kstatus(headline)}
    said = tuple(_condition(case, known, words.get(known.type)) for known in case.before.conditions)
    updates: dict[str, Any] = {}
    for stage in stages:
        updates.update(stage.updates)
    updates |= {
        "conditions": said,
        "phase": headline.phase,
        "failure": headline.failure,
        "observed_generation": case.job.metadata.generation,
    }
    events = (*_news(case, said), *(event for stage in stages for event in stage.events))
    return case.before.model_copy(update=updates), events


def _words(stages: Sequence[Stage]) -> dict[conditions.Condition, Word]:
    return {kind: word for stage in stages for kind, word in stage.words.items()}


def _kstatus(headline: Headline) -> dict[conditions.Condition, Word]:
    """Ready, Reconciling and Stalled, as kstatus wants them."""
    reason, text = headline.reason, headline.message
    working = (
        Word("True", reason, text) if headline.kind == "Working" else Word("False", "Completed", "nothing is going on")
    )
    if headline.reason == "Suspended":
        working = Word("False", "Suspended", text)
    stuck = Word("True", reason, text) if headline.kind == "Stuck" else IDLE
    return {
        C.READY: Word("True" if headline.ready else "False", reason, text),
        C.RECONCILING: working,
        C.STALLED: stuck,
    }


def _condition(case: Case, known: statuses.ConditionStatus, word: Word | None) -> statuses.ConditionStatus:
    generation = case.job.metadata.generation
    told = (known.status, known.reason, known.message, known.observed_generation)
    if word is None or told == (word.status, word.reason, shown.clip(word.message), generation):
        return known
    moved = word.status != known.status
    return statuses.ConditionStatus(
        type=known.type,
        status=word.status,
        reason=word.reason,
        message=shown.clip(word.message),
        observed_generation=generation,
        last_transition_time=shown.time(case.now) if moved else known.last_transition_time,
    )


def _news(case: Case, said: Sequence[statuses.ConditionStatus]) -> Iterator[Event]:
    for old, new in zip(case.before.conditions, said, strict=True):
        same = (old.status, old.reason) == (new.status, new.reason)
        if same or new.type not in NEWS or new.status == "Unknown" or new.reason in NO_NEWS:
            continue
        bad = new.type is C.STALLED or new.reason in {meaning.reason for meaning in exits.MEANINGS}
        yield Event("Warning" if bad else "Normal", new.reason, new.message)


def exit_code(status: statuses.FineTuneJobStatus) -> exits.CliExit:
    """What a status means to CI: promoted, rejected, inconclusive, interrupted, or an error."""
    held = {condition.type: condition for condition in status.conditions}
    if status.phase is PHASE.SUSPENDED:
        return exits.CliExit.INTERRUPTED
    decision, stalled = held.get(C.PROMOTED), held.get(C.STALLED)
    stuck = stalled is not None and stalled.status == "True" and stalled.reason not in EXITS
    if decision is None or stuck:
        return exits.CliExit.ERROR
    return EXITS.get(decision.reason, exits.CliExit.ERROR)


EXITS = {
    "CandidatePromoted": exits.CliExit.PROMOTED,
    "PromotedByHand": exits.CliExit.PROMOTED,
    "RolledBack": exits.CliExit.PROMOTED,
    "AwaitingApproval": exits.CliExit.PROMOTED,
    "PromotionOff": exits.CliExit.PROMOTED,
    "CandidateRejected": exits.CliExit.REJECTED,
    "CandidateInconclusive": exits.CliExit.INCONCLUSIVE,
}
"""By reason of condition Promoted. A winner that waits for a person, or is kept on purpose, has won."""
