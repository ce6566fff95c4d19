"""`output`: how many versions are kept. Never lets go of one that is promoted, previous, served or pinned."""

from __future__ import annotations

from topcoat.api import names, status
from topcoat.plan import observed
from topcoat.plan.case import Case, Wish
from topcoat.plan.intent import DeleteVersion, Stage
from topcoat.plan.order import order
from topcoat.plan.promotion import Book
from topcoat.plan.training import Trained

State = status.VersionState


def stage(case: Case, wish: Wish, trained: Trained, book: Book) -> Stage:
    """Deletes the oldest of what history need not keep."""
    kept = {entry.version for entry in book.versions if entry.state not in (State.REJECTED, State.RETIRED)}
    kept |= {book.promoted or "", book.previous or "", *_pointed_at(case, wish)}
    old = [entry for entry in book.versions if entry.version not in kept]
    # The current run's version counts, but it is the one that people look at: it stays.
    current = names.version_name(trained.run.number) if trained.run else ""
    surplus = [entry for entry in old[: max(0, len(old) - wish.spec.output.history_limit)] if entry.version != current]
    found = [case.seen.version_or_none(entry.version) for entry in surplus]
    deletions = tuple(_deletion(case, wish, version) for version in found if version)
    return Stage(actions=deletions, updates={"versions": book.versions[-128:]})


def _deletion(case: Case, wish: Wish, version: observed.SealedVersion) -> DeleteVersion:
    sealed_by = status.RunStatus(number=names.run_of(version.version))
    return DeleteVersion(version.version, version.path, version.digest, order(case, wish, sealed_by))


def _pointed_at(case: Case, wish: Wish) -> set[str]:
    """Versions that the manifest or the alias names."""
    pointed = {wish.spec.serving.pinned_version, wish.spec.promotion.approved_version}
    if case.seen.alias:
        pointed.add(case.seen.alias.version)
    return {name for name in pointed if name}
