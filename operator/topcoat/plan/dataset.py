"""`dataset`: the prepare stage. Rows and base model are checked before anything expensive is asked for.

Knows when the sources must be looked at again; reads no source itself.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from topcoat.api import conditions, exits, retrain, status
from topcoat.api import report as reports
from topcoat.plan import estimate as estimates
from topcoat.plan import inputs, lifecycle, observed, schedule, shown, waiting
from topcoat.plan.case import Case, Wish
from topcoat.plan.intent import Action, Headline, Stage, StartPrepare, Word
from topcoat.plan.order import order

VALID = conditions.Condition.DATASET_VALID


@dataclass(frozen=True, slots=True)
class Sources:
    """What the prepare stage knows of this manifest's sources; `report` only when it is fresh."""

    stage: Stage
    report: reports.PrepareReport | None = None


def key(wish: Wish) -> str:
    """The question that prepare answers: everything in the manifest that its answer depends on."""
    spec = wish.spec
    asked = (
        {"baseModel": wish.base_model, "dataset": spec.dataset, "method": spec.method, "training": spec.training}
        | {"evaluation": spec.evaluation, "lifecycle": spec.lifecycle}
    )  # fmt: skip
    parts: dict[str, Any] = {name: part.as_json() for name, part in asked.items()}
    if spec.retrain.requested_at:
        parts["requestedAt"] = spec.retrain.requested_at  # whoever asks for a run wants the sources read again
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def stage(case: Case, wish: Wish) -> Sources:
    """Starts the check where the sources are new or somebody asks, and says what came of it."""
    if wish.refusal or case.held(wish.spec):
        return Sources(Stage())
    prepared = case.seen.prepared
    if prepared is None or prepared.key != key(wish):
        return Sources(_asking(case, wish, quiet=False))
    if case.seen.recheck and not case.active_run:
        return Sources(_asking(case, wish, quiet=prepared.report is not None))
    told = _good(case, wish, prepared) if prepared.report is not None else _bad(case, wish, prepared)
    return replace(told, stage=_looking_again(case, wish, prepared, told.stage))


def _looking_again(case: Case, wish: Wish, prepared: observed.Prepared, told: Stage) -> Stage:
    """The sources are read anew when `retrain` says so, whatever they were like the last time."""
    if case.seen.mode is observed.Mode.LOCAL or told.actions:
        return told
    rules = wish.spec.retrain
    due, at = _due(case, rules, prepared), None if rules.suspend else schedule.after(rules, case.now)
    told = replace(told, updates={**told.updates, "next_schedule_time": shown.time(at) if at else None})
    if due is None:
        return told
    left = (due - case.now).total_seconds()
    actions = _asking(case, wish, quiet=True).actions if left <= 0 else ()
    waits = [seconds for seconds in (told.look_again_seconds, max(1.0, left)) if seconds is not None]
    return replace(told, actions=actions, look_again_seconds=min(waits))


def _due(case: Case, rules: retrain.Retrain, prepared: observed.Prepared) -> datetime | None:
    """When the sources are to be read again: by polling or by the schedule, whichever comes first."""
    poll, found = rules.on_data_change, schedule.due_or_none(case, rules, prepared.finished_at)
    if poll is None or rules.suspend or case.active_run:
        return found
    polled = prepared.finished_at + timedelta(seconds=poll.poll_interval_seconds)
    return polled if found is None else min(polled, found)


def _asking(case: Case, wish: Wish, *, quiet: bool) -> Stage:
    actions: tuple[Action, ...] = () if case.seen.preparing else (StartPrepare(key(wish), order(case, wish, None)),)
    if quiet:
        return Stage(actions=actions)
    message = "data set and base model are being checked"
    word = Word("Unknown", "Preparing", message)
    look = waiting.look_again_seconds(case, case.seen.waiting)
    wait = waiting.lasting_or_none(case, case.seen.waiting)
    if wait is not None:
        admitted, headline = waiting.said(case, "the prepare pod", wait, conditions.Phase.PREPARING)
        words = {VALID: word, conditions.Condition.ADMITTED: admitted}
        return Stage(words, headline, actions, look_again_seconds=look)
    headline = Headline(conditions.Phase.PREPARING, "Working", "Preparing", message)
    return Stage({VALID: word}, headline, actions, look_again_seconds=look)


def _good(case: Case, wish: Wish, prepared: observed.Prepared) -> Sources:
    report = prepared.report
    assert report is not None  # noqa: S101 (the caller looked)
    found = f"sha256:{report.base_model.digest.removeprefix('sha256:')}"
    if wish.base_digest not in (None, found):
        wanted = f"the catalogue's model has digest {wish.base_digest}, the files have {found}"
        return Sources(_refused(exits.BY_CODE[exits.Exit.BASE_MODEL], wanted, ""))
    card = report.dataset
    message = (
        f"{shown.plural(card.train_samples, 'row')} to learn from, {card.holdout_samples:,} held out, "
        f"{card.invalid:,} left out as unusable"
    )
    return Sources(Stage({VALID: Word("True", "Checked", message)}, updates=_found(case, wish, prepared)), report)


def _remembered(case: Case, prepared: observed.Prepared) -> status.PreparedStatus | None:
    """In a cluster the prepare Job may be gone tomorrow; on one machine a file remembers."""
    if case.seen.mode is observed.Mode.LOCAL:
        return None
    return status.PreparedStatus(
        key=prepared.key,
        finished_at=shown.time(prepared.finished_at),
        exit_code=min(255, max(0, prepared.exit_code)),
        failures=max(0, prepared.failures),
    )


def _place(case: Case, report: reports.PrepareReport) -> dict[str, str]:
    """Where servers find the base model. On one machine folders move; nothing is remembered of them."""
    if case.seen.mode is observed.Mode.LOCAL:
        return {}
    return {"id": shown.clip(report.base_model.id, 253), "path": shown.clip(report.base_model.path)}


def _found(case: Case, wish: Wish, prepared: observed.Prepared) -> dict[str, object]:
    report = prepared.report
    assert report is not None  # noqa: S101 (the caller looked)
    card = report.dataset
    return {
        "prepared": _remembered(case, prepared),
        "dataset": status.DatasetStatus(
            digest=shown.clip(card.digest, 253),
            samples=max(0, card.train_samples),
            invalid=max(0, card.invalid),
            tokens=max(0, card.tokens),
            holdout_samples=max(0, card.holdout_samples),
        ),
        "base_model": status.BaseModelStatus(
            resolved_revision=shown.clip(report.base_model.revision, 253),
            digest=shown.clip(report.base_model.digest, 253),
            **_place(case, report),
        ),
        "estimate": _estimate(case, wish, report),
    }


def _estimate(case: Case, wish: Wish, report: reports.PrepareReport) -> status.EstimateStatus:
    """Of the run that is asked for. Where that one is over, nothing will run, and times that are measured at every look
    are no news.
    """
    run, before = case.before.run, case.before.estimate
    told = estimates.kept(report.estimate, before)
    # The inputs are hashed only where there is something to decide.
    if before is None or told == before or run is None or not run.completion_time:
        return told
    return before if run.input_hash == inputs.of(wish, report).hash else told


def _bad(case: Case, wish: Wish, prepared: observed.Prepared) -> Sources:
    meaning = exits.BY_CODE.get(prepared.exit_code, exits.BY_CODE[exits.Exit.UNEXPECTED])
    said = prepared.termination
    message = (
        said.message if said and said.message else f"prepare ended with code {prepared.exit_code}: {meaning.meaning}"
    )
    limit = wish.spec.lifecycle.backoff_limit
    if meaning.retry is exits.Retry.NEVER or prepared.failures > limit:
        refused = _refused(meaning, message, said.hint if said else "")
        return Sources(replace(refused, updates={"prepared": _remembered(case, prepared)}))
    due = prepared.finished_at + timedelta(seconds=lifecycle.wait_seconds(max(1, prepared.failures)))
    left = (due - case.now).total_seconds()
    if left <= 0:
        return Sources(_asking(case, wish, quiet=False))
    text = f"{message}; next try at {shown.time(due)} ({prepared.failures} of {limit})"
    headline = Headline(conditions.Phase.PREPARING, "Working", "Retrying", shown.clip(text))
    return Sources(Stage({VALID: Word("Unknown", meaning.reason, message)}, headline, look_again_seconds=left))


def _refused(meaning: exits.ExitMeaning, message: str, hint: str) -> Stage:
    failure = status.Failure(
        category=meaning.category, message=shown.clip(message), hint=shown.clip(hint or meaning.hint)
    )
    headline = Headline(conditions.Phase.FAILED, "Stuck", meaning.reason, message, failure=failure)
    return Stage({VALID: Word("False", meaning.reason, message)}, headline)
