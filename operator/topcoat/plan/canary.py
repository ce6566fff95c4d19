"""How a canary goes: step by step the new version gets more of the traffic, while its answers keep to the analysis.

Which step it is stands in status.rollout; all else follows from what is seen, so that it may be interrupted anywhere.
Going back to an older version is never a canary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from topcoat.api import names, status
from topcoat.api import serving as servings
from topcoat.plan import observed, shown
from topcoat.plan.case import Case, Wish
from topcoat.plan.intent import Event, Stage

LOOK_AGAIN_SECONDS = 2.0
State = status.RolloutState


@dataclass(frozen=True, slots=True)
class Share:
    """What the version that is tried gets: per cent of the traffic (0: nothing before it is proved)."""

    previous: str
    weight: int
    message: str
    held: bool = False
    """It fails its analysis, and a person is to decide."""


@dataclass(frozen=True, slots=True)
class Canary:
    """`share`: None where the alias moves at once, or has. `back_to`: the version that takes its place again."""

    share: Share | None = None
    back_to: str | None = None
    stage: Stage = field(default_factory=Stage)


def stage(case: Case, wish: Wish, promoted: str | None) -> Canary:
    """Begins, continues or ends the trial of the promoted version."""
    rules, before = wish.spec.serving.rollout, case.before.rollout
    target = case.usable_or_none(promoted)
    known = before if before and target and before.version == target.version else None
    if target is None or not _wanted(case, wish):
        return _none(before)
    if known is None or known.state is State.ROLLED_BACK:
        return _begun(case, rules, target)
    return Canary(stage=Stage(updates={"rollout": known})) if known.state is State.DONE else _next(case, rules, known)


def _wanted(case: Case, wish: Wish) -> bool:
    serving = wish.spec.serving
    return (
        case.seen.mode is observed.Mode.CLUSTER
        and case.seen.server is not None
        and serving.rollout.type is servings.RolloutType.CANARY
        and serving.mode is not servings.Mode.NONE
        and serving.pinned_version is None
    )


def _none(before: status.RolloutStatus | None) -> Canary:
    """A canary that was broken off is forgotten; how the last one ended is not."""
    kept = before if before and before.state in (State.DONE, State.ROLLED_BACK) else None
    return Canary(stage=Stage(updates={"rollout": kept, "canary_weight": None}))


def _begun(case: Case, rules: servings.Rollout, target: observed.SealedVersion) -> Canary:
    server = case.seen.server
    serves = case.usable_or_none(server.target) if server else None
    if server is None or serves is None or names.run_of(serves.version) >= names.run_of(target.version):
        return _none(case.before.rollout)
    if target.digest not in server.proved:
        text = f"{target.version} is being loaded beside {serves.version}"
        return Canary(Share(serves.version, 0, text), stage=Stage(updates={"canary_weight": None}))
    begun = status.RolloutStatus(version=target.version, previous=serves.version, step_time=shown.time(case.now))
    return _told(case, rules, begun, moved=True)


def _next(case: Case, rules: servings.Rollout, known: status.RolloutStatus) -> Canary:
    """One look at a trial that goes on: it fails, stays at its step, or moves on."""
    server = case.seen.server
    if server is None:
        return _told(case, rules, known)
    target = case.usable_or_none(known.version)
    refused = server.refused.get(target.digest) if target else None
    fault = f"the server refuses it: {refused}" if refused else _fault(rules.analysis, server, known)
    if fault and rules.auto_rollback and case.usable_or_none(known.previous):
        return _rolled_back(known, fault)
    if fault:
        return _told(case, rules, known.model_copy(update={"state": State.HELD, "message": shown.clip(fault)}))
    known = known.model_copy(update={"state": State.PROGRESSING})
    if not _step_is_over(case, rules, known, server):
        return _told(case, rules, known)
    samples = server.traffic.get(known.version, observed.Traffic()).requests
    update = {"step": known.step + 1, "step_time": shown.time(case.now), "samples": samples}
    known = known.model_copy(update=update)
    return _done(case, known) if known.step >= len(_steps(rules)) else _told(case, rules, known, moved=True)


def _step_is_over(case: Case, rules: servings.Rollout, known: status.RolloutStatus, server: observed.Server) -> bool:
    """The share is in force, has been for long enough, and enough was answered with it."""
    steps = _steps(rules)
    if known.step >= len(steps):
        return True  # the manifest has fewer steps by now
    weight, pause = steps[known.step]
    if server.weight_in_force != weight or server.watched != known.version or _seconds(case, known) < pause:
        return False
    samples = server.traffic.get(known.version, observed.Traffic()).requests
    # A pod that began anew counts from nothing.
    gained = samples - (known.samples if samples >= known.samples else 0)
    # Without as many of the one before, nobody knows yet whether the new one is slower.
    compared = server.traffic.get(known.previous, observed.Traffic()).requests
    return weight == 100 or min(gained, compared) >= rules.analysis.min_samples


def _steps(rules: servings.Rollout) -> list[tuple[int, int]]:
    """Weight and pause of each step; one at 100 %, if it is to be watched there, is the last."""
    steps = [(step.weight, step.pause_seconds or 0) for step in rules.steps if step.weight < 100]
    bake = max([rules.bake_seconds or 0, *(step.pause_seconds or 0 for step in rules.steps if step.weight == 100)])
    return [*steps, (100, bake)] if bake or not steps else steps


def _seconds(case: Case, known: status.RolloutStatus) -> float:
    begun = shown.moment(known.step_time) or datetime.min.replace(tzinfo=case.now.tzinfo)
    return (case.now - begun).total_seconds()


def _told(case: Case, rules: servings.Rollout, known: status.RolloutStatus, *, moved: bool = False) -> Canary:
    """The trial goes on at its step. The words hold no counts: they would be a write for each look."""
    steps = _steps(rules)
    weight, pause = steps[min(known.step, len(steps) - 1)]
    text = f"{known.version} answers {weight} % of the requests to {case.job.alias}, {known.previous} the rest"
    text += f"; the next step needs {rules.analysis.min_samples} answers of each and {pause} s"
    if weight == 100:
        text = f"{known.version} answers all requests to {case.job.alias} and is watched for {pause} s"
    held = known.state is State.HELD
    if held:
        text = f"{known.version} fails its analysis and stays at {weight} %: {known.message}"
    else:
        known = known.model_copy(update={"message": shown.clip(text)})
    events = (Event("Normal", "CanaryStep", text),) if moved else ()
    updates = {"rollout": known, "canary_weight": weight}
    waits = Stage(updates=updates, events=events, look_again_seconds=LOOK_AGAIN_SECONDS)
    return Canary(Share(known.previous, weight, text, held), stage=waits)


def _done(case: Case, known: status.RolloutStatus) -> Canary:
    text = f"{known.version} answers all requests to {case.job.alias}"
    ended = known.model_copy(update={"state": State.DONE, "message": shown.clip(text)})
    events = (Event("Normal", "CanaryDone", text),)
    return Canary(stage=Stage(updates={"rollout": ended, "canary_weight": None}, events=events))


def _rolled_back(known: status.RolloutStatus, fault: str) -> Canary:
    text = f"{known.version} gave way to {known.previous} again: {fault}"
    ended = known.model_copy(update={"state": State.ROLLED_BACK, "message": shown.clip(text)})
    events = (Event("Warning", "CanaryRolledBack", text),)
    stage = Stage(updates={"rollout": ended, "canary_weight": None}, events=events)
    return Canary(back_to=known.previous, stage=stage)


def _fault(rules: servings.Analysis, server: observed.Server, known: status.RolloutStatus) -> str:
    """Why the new version's answers are not good enough; nothing where they are, or where there are too few."""
    new = server.traffic.get(known.version, observed.Traffic())
    old = server.traffic.get(known.previous, observed.Traffic())
    enough = max(new.requests, rules.min_samples)
    allowed = float(rules.max_error_rate)
    # Sooner than after all samples where the rest could not mend it.
    if new.failed > allowed * enough:
        return f"{new.failed} of {new.requests} requests failed, allowed is {allowed:.1%}"
    empty = float(rules.max_empty_rate) + (old.empty / old.requests if old.requests else 0.0)
    if new.empty > empty * enough:
        return f"{new.empty} of {new.requests} answers are empty or repeat themselves, allowed is {empty:.1%}"
    if min(new.requests, old.requests) < rules.min_samples or not new.p95_seconds or not old.p95_seconds:
        return ""
    ratio, most = new.p95_seconds / old.p95_seconds, float(rules.max_latency_ratio)
    if ratio > most:
        times = f"{new.p95_seconds:.3g} s against {old.p95_seconds:.3g} s (p95)"
        return f"answers take {ratio:.2g} times as long, {times}, allowed is {most:g}"
    return ""
