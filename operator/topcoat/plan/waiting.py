"""Why something does not start: which waits end by themselves, which need a person, and what to do about each.

A wait that needs a person is said as such only after a grace, since pulls and claims are slow at first.
"""

from __future__ import annotations

from dataclasses import dataclass

from topcoat.api import conditions, exits, status
from topcoat.plan import observed, shown
from topcoat.plan.case import Case
from topcoat.plan.intent import Headline, Kind, Stage, Word

GRACE_SECONDS = 60.0
# Every pod waits a moment for its volume and its node; saying so each time would be a write for nothing.
QUIET_SECONDS = 30.0
LOOK_AGAIN_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Meaning:
    """What follows from one kind of wait. `person`: it does not end by itself."""

    person: bool
    category: exits.Category
    hint: str


W = observed.Wait
INFRASTRUCTURE = exits.Category.INFRASTRUCTURE
MEANINGS: dict[observed.Wait, Meaning] = {
    W.QUEUE: Meaning(False, INFRASTRUCTURE, "it starts when the queue admits it"),
    W.UNSCHEDULABLE: Meaning(
        False, INFRASTRUCTURE, "free or add a node with these resources, or ask for less in trainer.resources"
    ),
    W.VOLUME: Meaning(
        True, INFRASTRUCTURE, "check the claim with `kubectl describe pvc`; the profile's storage names its class"
    ),
    W.IMAGE: Meaning(
        True, INFRASTRUCTURE, "check the profile's images, the registry and the pull secret; it goes on by itself then"
    ),
    W.CONFIGURATION: Meaning(
        True, exits.Category.USER_INPUT, "create what the message names, or change the field that names it"
    ),
    W.QUOTA: Meaning(
        False, INFRASTRUCTURE, "wait for other pods to end, ask for less, or ask the platform team for more quota"
    ),
    W.REFUSED: Meaning(
        True,
        INFRASTRUCTURE,
        "the message is the API server's; an admission policy or a missing right is the usual cause",
    ),
}


def blocked(case: Case) -> Stage:
    """The cluster did not take what was to be started: said first, tried again by the worker."""
    if case.seen.blocked is None:
        return Stage()
    word, headline = said(case, "the next pod", case.seen.blocked, conditions.Phase.QUEUED)
    return Stage({conditions.Condition.ADMITTED: word}, headline, look_again_seconds=LOOK_AGAIN_SECONDS)


def lasting_or_none(case: Case, wait: observed.Waiting | None) -> observed.Waiting | None:
    """A wait that is long enough to be told."""
    if wait is None or wait.why is W.QUEUE:
        return wait
    return wait if (case.now - wait.since).total_seconds() >= QUIET_SECONDS else None


def said(case: Case, name: str, wait: observed.Waiting, phase: conditions.Phase) -> tuple[Word, Headline]:
    """Condition Admitted and the headline for a wait."""
    meaning = MEANINGS[wait.why]
    text = shown.clip(f"{name} waits: {wait.message}" if wait.message else f"{name} waits for resources")
    stuck = meaning.person and (case.now - wait.since).total_seconds() >= GRACE_SECONDS
    kind: Kind = "Stuck" if stuck else "Working"
    failure = status.Failure(category=meaning.category, message=text, hint=shown.clip(meaning.hint)) if stuck else None
    return Word("False", wait.why.value, text), Headline(phase, kind, wait.why.value, text, failure=failure)


def look_again_seconds(case: Case, wait: observed.Waiting | None) -> float | None:
    """When a wait is long enough to be told, or turns into one that needs a person."""
    if wait is None or wait.why is W.QUEUE:
        return None
    lasted = (case.now - wait.since).total_seconds()
    limits = (QUIET_SECONDS, GRACE_SECONDS) if MEANINGS[wait.why].person else (QUIET_SECONDS,)
    return next((max(1.0, limit - lasted) for limit in limits if lasted < limit), None)
