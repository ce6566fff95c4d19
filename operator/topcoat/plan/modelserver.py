"""The life of a ModelServer: who uses it, how many pods it has, what it says, when it goes. Pure and total.

One that the operator made goes with its last alias; one that the platform team made stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from topcoat.api import conditions, metadata, modelserver, server, status
from topcoat.plan import observed, shown

C = conditions.Condition
Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class User:
    """A FineTuneJob that is served here."""

    job: str
    alias: str
    replicas: int
    base: status.BaseModelStatus | None
    token_secret: str | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What is seen of a server."""

    ours: bool
    """The operator made it."""
    users: Sequence[User] = ()
    aliases: Mapping[str, server.AliasFile] = field(default_factory=dict)
    desired_pods: int = 0
    ready_pods: int = 0
    states: Sequence[server.AgentState] = ()
    """Of the ready pods."""
    waiting: observed.Waiting | None = None
    problem: str = ""
    """What the profile has against it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do with a server."""

    drop: tuple[str, ...] = ()
    """Aliases whose job is gone, or serves elsewhere now."""
    delete: bool = False
    replicas: int | None = None
    """Pods to ask for, where that differs from the spec."""
    base: status.BaseModelStatus | None = None
    """The base model, where anybody has fetched it."""
    claims: tuple[str, ...] = ()
    tokens: tuple[tuple[str, str], ...] = ()
    status: modelserver.ModelServerStatus = field(default_factory=modelserver.ModelServerStatus)
    unsettled: bool = False
    """Pods do not hold yet what the alias files say, or traffic is watched: ask them again soon."""


def plan(wanted: modelserver.ModelServer, seen: Seen, now: datetime) -> Plan:
    """One step of a server's life."""
    users = {(user.alias, user.job) for user in seen.users}
    drop = tuple(name for name, file in seen.aliases.items() if (name, file.job) not in users)
    kept = {name: file for name, file in seen.aliases.items() if name not in drop}
    asked = max((user.replicas for user in seen.users), default=wanted.spec.replicas)
    bases = [user.base for user in sorted(seen.users, key=lambda user: user.job) if user.base and user.base.path]
    claims = {path for file in kept.values() for held in file.versions if (path := claim(held.path))}
    return Plan(
        drop=drop,
        delete=seen.ours and not kept and not seen.users,
        replicas=asked if seen.ours and asked != wanted.spec.replicas else None,
        # One of ours is made for an alias: before its file is there, pods would start without the alias' claim.
        base=next(iter(bases), None) if kept or not seen.ours else None,
        claims=tuple(sorted(claims)),
        tokens=_tokens(seen.users, kept),
        status=_status(wanted, seen, kept, now),
        unsettled=_unsettled(seen, kept),
    )


def _tokens(users: Sequence[User], kept: Mapping[str, server.AliasFile]) -> tuple[tuple[str, str], ...]:
    """Each alias with its Secret. Of several jobs that ask for one alias, the one that has it decides."""
    owners = {alias: file.job for alias, file in kept.items()}
    for user in users:
        owners.setdefault(user.alias, user.job)
    return tuple(
        (user.alias, user.token_secret) for user in users if user.token_secret and owners[user.alias] == user.job
    )


def claim(path: str) -> str:
    """Claim of a version's folder as the server sees it, /topcoat/claims/<claim>/…: its third part."""
    parts = path.split("/")
    return parts[3] if len(parts) > 3 else ""


def _unsettled(seen: Seen, kept: Mapping[str, server.AliasFile]) -> bool:
    if seen.ready_pods < seen.desired_pods or len(seen.states) < seen.ready_pods:
        return True
    if any(file.watched for file in kept.values()):
        return True
    return any(not _holds(state, file) for state in seen.states for file in kept.values())


def _holds(state: server.AgentState, file: server.AliasFile) -> bool:
    """Whether a pod has come to a verdict on all that a file asks for."""
    in_force = any((held.alias, held.generation) == (file.alias, file.generation) for held in state.aliases)
    judged = {held.digest for held in state.versions if held.state != "Loading"}
    return in_force and all(version.digest in judged for version in file.versions)


def _status(
    wanted: modelserver.ModelServer, seen: Seen, kept: Mapping[str, server.AliasFile], now: datetime
) -> modelserver.ModelServerStatus:
    before = wanted.status or modelserver.ModelServerStatus()
    reason, text, ready, stuck = _headline(seen, kept)
    words: dict[conditions.Condition, tuple[Truth, str, str]] = {
        C.READY: ("True" if ready else "False", reason, text),
        C.RECONCILING: ("False", "Completed", "nothing is going on") if ready or stuck else ("True", reason, text),
        C.STALLED: ("True", reason, text) if stuck else ("False", "Idle", "nothing needs to be done"),
    }
    known = {condition.type: condition for condition in before.conditions}
    said = tuple(_condition(kind, known.get(kind), word, wanted, now) for kind, word in words.items())
    return before.model_copy(
        update={
            "observed_generation": wanted.metadata.generation,
            "conditions": said,
            "ready_replicas": seen.ready_pods,
            "selector": f"{metadata.GROUP}/server={wanted.metadata.name}",
            "versions": _versions(seen, kept),
            "aliases": tuple(_alias(file) for _, file in sorted(kept.items())),
        }
    )


def _headline(seen: Seen, kept: Mapping[str, server.AliasFile]) -> tuple[str, str, bool, bool]:
    """Reason, sentence, whether it is ready, whether a person must act."""
    if seen.problem:
        return "ProfileForbids", seen.problem, False, True
    if seen.waiting is not None and seen.ready_pods < seen.desired_pods:
        stuck = seen.waiting.why in (observed.Wait.IMAGE, observed.Wait.CONFIGURATION, observed.Wait.VOLUME)
        return seen.waiting.why.value, shown.clip(seen.waiting.message), False, stuck
    if seen.ready_pods < seen.desired_pods:
        return "ServerNotReady", f"{seen.ready_pods} of {seen.desired_pods} pods are ready", False, False
    if _unsettled(seen, kept):
        return "RollingOut", "pods load and prove what the aliases name", False, False
    return "AliasReady", f"{shown.plural(len(kept), 'alias').replace('aliass', 'aliases')} served", True, False


def _condition(
    kind: conditions.Condition,
    known: status.ConditionStatus | None,
    word: tuple[Truth, str, str],
    wanted: modelserver.ModelServer,
    now: datetime,
) -> status.ConditionStatus:
    moved = known is None or known.status != word[0]
    return status.ConditionStatus(
        type=kind,
        status=word[0],
        reason=word[1],
        message=shown.clip(word[2]),
        observed_generation=wanted.metadata.generation,
        last_transition_time=shown.time(now) if moved or known is None else known.last_transition_time,
    )


def _versions(seen: Seen, kept: Mapping[str, server.AliasFile]) -> tuple[modelserver.LoadedVersion, ...]:
    return tuple(
        _loaded(seen, file.job, version)
        for _, file in sorted(kept.items())
        for version in sorted(file.versions, key=lambda version: version.version)
    )


def _loaded(seen: Seen, job: str, version: server.WantedVersion) -> modelserver.LoadedVersion:
    held = [held for state in seen.states for held in state.versions if held.digest == version.digest]
    proved = sum(found.state == "Proved" for found in held)
    proofs = [found.probe for found in held if found.probe]
    worst = max(proofs, key=lambda proof: (not proof.ok, proof.max_abs_diff), default=None)
    fields: dict[str, Any] = {}
    if worst is not None:
        at = shown.moment(worst.at)
        found = f"{worst.max_abs_diff:.2g}"
        fields["probe"] = modelserver.ProbeResult(ok=worst.ok, max_abs_diff=found, at=shown.time(at) if at else None)
    return modelserver.LoadedVersion(
        job=job,
        version=version.version,
        digest=version.digest,
        ready_pods=proved,
        desired_pods=seen.desired_pods,
        **fields,
    )


def _alias(file: server.AliasFile) -> modelserver.AliasStatus:
    targets = tuple(modelserver.AliasTarget(version=target.version, weight=target.weight) for target in file.targets)
    return modelserver.AliasStatus(name=file.alias, targets=targets)
