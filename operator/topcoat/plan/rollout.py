"""How an alias moves in a cluster: the server holds a version, every ready pod proves it, then the alias points to it.

The step follows from what is seen, so that it may be interrupted anywhere.
"""

from __future__ import annotations

from topcoat.api import conditions
from topcoat.plan import observed, waiting
from topcoat.plan.canary import Share
from topcoat.plan.case import Case
from topcoat.plan.intent import Action, Headline, Held, Kind, Word, WriteAlias
from topcoat.plan.promotion import Book, Decided

PHASE = conditions.Phase
C = conditions.Condition


Said = tuple[Word, Headline | None, tuple[Action, ...]]


def stage(case: Case, target: observed.SealedVersion, decided: Decided) -> Said:
    """One step of the move to `target`: what to say of Serving, and what to do."""
    server, book = case.seen.server or observed.Server(""), decided.book
    share = decided.canary.share if target.version == book.promoted else None
    wanted = _held(case, target, book)
    if target.version not in server.written or server.written[target.version] != target.digest:
        # What answers today goes on answering; the target is only loaded beside it.
        return _moving(case, server, target, WriteAlias(case.job.alias, wanted, _usable(server.target, wanted)))
    if share is not None and share.weight:
        answers = share.previous if share.weight < 100 else target.version
        return _tried(server, share, WriteAlias(case.job.alias, wanted, answers, target.version, share.weight))
    if server.target == target.version and server.answers == target.version:
        extra = {held.version: held.digest for held in wanted} != dict(server.written) or server.watched
        actions: tuple[Action, ...] = (WriteAlias(case.job.alias, wanted, target.version),) if extra else ()
        return _answered(case, server, target, actions)
    if target.digest in server.refused:
        text = f"the server refuses {target.version}: {server.refused[target.digest]}"
        return Word("False", "VersionUnusable", text), Headline(PHASE.FAILED, "Stuck", "VersionUnusable", text), ()
    if target.digest in server.proved and server.target != target.version and share is None:
        return _moving(case, server, target, WriteAlias(case.job.alias, wanted, target.version))
    return _moving(case, server, target, None)


def _answered(case: Case, server: observed.Server, target: observed.SealedVersion, actions: tuple[Action, ...]) -> Said:
    """The target answers; until every pod has heard that a trial is over, not alone."""
    if server.alone:
        return Word("True", "AliasReady", f"{case.job.alias} answers with {target.version}"), None, actions
    text = f"{target.version} answers, and gets back what another version answers of {case.job.alias}"
    return Word("True", "Canary", text), _headline("Working", "RollingOut", text), actions


def _tried(server: observed.Server, share: Share, wanted: WriteAlias) -> Said:
    """The version that is tried has its share of the traffic, or gets it now."""
    written = (server.target, server.watched, server.weight) == (wanted.target, wanted.watched, wanted.weight)
    actions: tuple[Action, ...] = () if written else (wanted,)
    if share.held:
        return Word("True", "CanaryHeld", share.message), _headline("Stuck", "CanaryHeld", share.message), actions
    return Word("True", "Canary", share.message), _headline("Working", "RollingOut", share.message), actions


def _headline(kind: Kind, reason: str, text: str) -> Headline:
    return Headline(PHASE.ROLLING_OUT, kind, reason, text)


def _held(case: Case, target: observed.SealedVersion, book: Book) -> tuple[Held, ...]:
    """The target, what answers now, and what one may go back to."""
    server = case.seen.server
    named = [target.version, server.target if server else None, book.promoted, book.previous]
    if server and server.answers == target.version:
        named = [target.version, book.promoted, book.previous]
    found = [case.usable_or_none(name) for name in dict.fromkeys(named) if name]
    return tuple(Held(version.version, version.path, version.digest) for version in found if version)


def _usable(name: str | None, wanted: tuple[Held, ...]) -> str | None:
    return name if any(held.version == name for held in wanted) else None


def _moving(
    case: Case, server: observed.Server, target: observed.SealedVersion, action: WriteAlias | None
) -> tuple[Word, Headline, tuple[Action, ...]]:
    actions: tuple[Action, ...] = (action,) if action else ()
    wait = waiting.lasting_or_none(case, server.waiting)
    if wait is not None and (server.outdated or not server.ready_pods):
        word, headline = waiting.said(case, "the server's pod", wait, PHASE.ROLLING_OUT)
        return word, headline, actions
    if not server.ready_pods:
        text = f"no pod of the server is ready yet to answer with {target.version}"
        return (
            Word("False", "ServerNotReady", text),
            Headline(PHASE.ROLLING_OUT, "Working", "RollingOut", text),
            actions,
        )
    text = f"the alias {case.job.alias} moves from {server.answers or 'nothing'} to {target.version}"
    if server.outdated:
        text += "; pods that have its claim take the place of those that have not"
    return Word("False", "RollingOut", text), Headline(PHASE.ROLLING_OUT, "Working", "RollingOut", text), actions
