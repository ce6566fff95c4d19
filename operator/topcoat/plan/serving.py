"""`serving`: which sealed version the alias answers with. Never one that is unsealed, changed or gone.

A pinned version decides what serves; it does not change what is promoted.
"""

from __future__ import annotations

from dataclasses import replace

from topcoat.api import conditions, status
from topcoat.api import serving as servings
from topcoat.plan import observed, rollout, shown, waiting
from topcoat.plan.case import Case, Wish
from topcoat.plan.intent import Action, DropAlias, Headline, Kind, PointAlias, Stage, Word
from topcoat.plan.promotion import Decided

C = conditions.Condition
PHASE = conditions.Phase


def stage(case: Case, wish: Wish, decided: Decided) -> Stage:  # noqa: PLR0911 - one return for each thing to say
    """Points the alias, or says why it stays where it is."""
    alias, ours, book = case.job.alias, _serves(case), decided.book
    pinned = wish.spec.serving.pinned_version
    if wish.spec.serving.mode is servings.Mode.NONE:
        drop: tuple[Action, ...] = (DropAlias(alias),) if ours else ()
        return _stage(Word("False", "ServingOff", "serving.mode is None"), actions=drop, serves=None)
    target = pinned or book.promoted
    if target is None:
        drop = (DropAlias(alias),) if ours else ()
        return _stage(Word("False", "NothingToServe", "no version was promoted yet"), actions=drop, serves=None)
    if case.seen.alias and not ours:
        text = f"the alias {alias!r} belongs to job {case.seen.alias.job!r}; choose another serving.modelName"
        return _stuck("AliasTaken", text, serves=None)
    if case.before.base_model and case.before.base_model.id == alias:
        text = f"the alias {alias!r} is the base model's own name; choose another serving.modelName"
        return _stuck("AliasTaken", text, serves=ours)
    found = case.usable_or_none(target)
    if found is None:
        reason = "PinnedVersionMissing" if pinned and not case.seen.version_or_none(target) else "VersionUnusable"
        field = "serving.pinnedVersion: " if pinned else ""
        kept = f"; the alias stays at {ours}" if ours and ours != target else ""
        return _stuck(reason, f"{field}{case.problem_with(target)}{kept}", serves=ours)
    if case.seen.mode is observed.Mode.CLUSTER:
        return _in_cluster(case, wish, found, decided)
    if not _points_at(case, target, found.digest):
        text = f"the alias {alias} moves from {ours or 'nothing'} to {target}"
        move = PointAlias(alias, target, found.path, found.digest)
        headline = _headline("RollingOut", text, "Working")
        return _stage(Word("False", "RollingOut", text), headline, (move,), serves=ours)
    reason = "Pinned" if pinned and pinned != book.promoted else "AliasReady"
    return _stage(Word("True", reason, f"{alias} answers with {target}"), serves=target, endpoint=alias)


def _in_cluster(case: Case, wish: Wish, target: observed.SealedVersion, decided: Decided) -> Stage:
    server, pinned, book = case.seen.server, wish.spec.serving.pinned_version, decided.book
    word, headline, actions = rollout.stage(case, target, decided)
    answers = server.answers if server else None
    if not wish.spec.serving.replicas and server and not server.desired_pods and not actions:
        text = f"serving.replicas is 0; {target.version} answers as soon as a pod is wanted"
        return _stage(Word("False", "ScaledToZero", text), serves=None)
    if word.status == "True" and pinned and pinned != book.promoted:
        word = Word("True", "Pinned", word.message)
    stage = _stage(word, headline, actions, serves=answers, endpoint=case.job.alias if answers else "")
    where = status.Endpoint(model_name=case.job.alias, url=shown.clip(server.url, 253)) if server and answers else None
    look = waiting.look_again_seconds(case, server.waiting) if server else None
    return replace(stage, updates={**stage.updates, "endpoint": where}, look_again_seconds=look)


def _serves(case: Case) -> str | None:
    """The version that our alias points to."""
    alias = case.seen.alias
    return alias.version if alias and alias.job == case.job.metadata.name else None


def _points_at(case: Case, target: str, digest: str) -> bool:
    alias = case.seen.alias
    return alias is not None and (alias.version, alias.digest) == (target, digest)


def _headline(reason: str, message: str, kind: Kind) -> Headline:
    return Headline(PHASE.ROLLING_OUT if kind == "Working" else PHASE.FAILED, kind, reason, message)


def _stuck(reason: str, message: str, serves: str | None) -> Stage:
    return _stage(Word("False", reason, message), _headline(reason, message, "Stuck"), serves=serves)


def _stage(
    word: Word,
    headline: Headline | None = None,
    actions: tuple[Action, ...] = (),
    *,
    serves: str | None,
    endpoint: str = "",
) -> Stage:
    where = status.Endpoint(model_name=endpoint) if endpoint else None
    return Stage({C.SERVING: word}, headline, actions, updates={"served_version": serves, "endpoint": where})
