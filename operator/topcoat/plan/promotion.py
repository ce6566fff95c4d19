"""`promotion`: each candidate is decided once, by its verdict and the policy; a person may decide otherwise.

A decision is the version's state, so that the next plan does not undo a roll-back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from topcoat.api import conditions, names, status
from topcoat.api import promotion as promotions
from topcoat.plan import canary as canaries
from topcoat.plan import observed, shown
from topcoat.plan.case import Case, Wish
from topcoat.plan.intent import Headline, Stage, Word
from topcoat.plan.training import Trained

C = conditions.Condition
PHASE = conditions.Phase
State = status.VersionState
Verdict = promotions.Verdict


@dataclass(frozen=True, slots=True)
class Book:
    """All versions with their states, and the two that matter."""

    versions: tuple[status.VersionStatus, ...] = ()
    promoted: str | None = None
    previous: str | None = None

    def version_or_none(self, name: str | None) -> status.VersionStatus | None:
        return next((version for version in self.versions if version.version == name), None)

    def marked(self, name: str, state: State) -> Book:
        changed = (
            version.model_copy(update={"state": state}) if version.version == name else version
            for version in self.versions
        )
        return replace(self, versions=tuple(changed))

    def promote(self, name: str) -> Book:
        """The named version is promoted; the one before it is kept as previous; the one before that retires."""
        if name == self.promoted:
            return self.marked(name, State.PROMOTED)
        book = self
        if self.previous and self.previous != name:
            book = book.marked(self.previous, State.RETIRED)
        if self.promoted:
            book = book.marked(self.promoted, State.PREVIOUS)
        return replace(book.marked(name, State.PROMOTED), promoted=name, previous=self.promoted)


@dataclass(frozen=True, slots=True)
class Decided:
    """The book after the decisions, and what to say of the current candidate."""

    stage: Stage
    book: Book
    canary: canaries.Canary


def stage(case: Case, wish: Wish, trained: Trained) -> Decided:
    """Decides the candidates, and explains the current one."""
    book = _reverted(_opened(case, trained), trained)
    for candidate in [version for version in book.versions if version.state is State.CANDIDATE]:
        book = _judged(case, wish, book, candidate)
    book = _approved(case, wish, book)
    tried = canaries.stage(case, wish, book.promoted)
    if tried.back_to:
        book = book.promote(tried.back_to)
    said = _said(case, wish, trained, book)
    approved = wish.spec.promotion.approved_version
    if approved is None or case.usable_or_none(approved):
        said = replace(said, updates={**said.updates, "approved_version": approved})
    return Decided(said, book, tried)


def by_hand(known: status.FineTuneJobStatus, name: str, reason: str, message: str) -> status.FineTuneJobStatus:
    """Status after a person promoted a version, or went back to one; the next plan moves the alias."""
    book = Book(known.versions, known.promoted_version, known.previous_version).promote(name)
    said = tuple(
        condition.model_copy(update={"reason": reason, "message": shown.clip(message)})
        if condition.type is C.PROMOTED
        else condition
        for condition in known.conditions
    )
    update = {"versions": book.versions, "promoted_version": book.promoted, "previous_version": book.previous}
    return known.model_copy(update={**update, "conditions": said})


def _opened(case: Case, trained: Trained) -> Book:
    """What status knows, and what else stands on the volume."""
    before = case.before
    needed = {before.promoted_version, before.previous_version}
    on_volume = {version.version for version in case.seen.versions}
    known = [version for version in before.versions if version.version in on_volume | needed]
    names_known = {version.version for version in known}
    new = [version for version in case.seen.versions if version.valid and version.version not in names_known]
    book = Book(tuple(known), before.promoted_version, before.previous_version)
    for version in sorted(new, key=lambda version: names.run_of(version.version)):
        if names.run_of(version.version) == case.active_run:
            continue  # its trainer has not said its last word
        book = _with(case, trained, book, version)
    ordered = sorted(book.versions, key=lambda version: names.run_of(version.version))
    return replace(book, versions=tuple(ordered))


def _with(case: Case, trained: Trained, book: Book, found: observed.SealedVersion) -> Book:
    """A version that status does not know yet: the current run's is a candidate; others are only kept."""
    number, alias = names.run_of(found.version), case.seen.alias
    serves = alias is not None and alias.job == case.job.metadata.name and alias.version == found.version
    current = {run.number for run in (case.before.run, trained.run) if run}
    state = State.CANDIDATE if number in current else State.RETIRED
    if state is State.RETIRED and found.verdict in (Verdict.REJECT, Verdict.INCONCLUSIVE):
        state = State.REJECTED
    entry = status.VersionStatus(
        version=found.version,
        path=shown.clip(found.path),
        digest=found.digest,
        state=state,
        score=shown.short_score(found.evaluation.candidate) if found.evaluation else "",
        verdict=found.verdict,
        input_hash=shown.clip(found.input_hash, 253),
    )
    book = replace(book, versions=(*book.versions, entry))
    # The alias outlived a lost status: what serves is what was promoted.
    return book.promote(found.version) if serves and book.promoted is None else book


def _reverted(book: Book, trained: Trained) -> Book:
    """A manifest that went back to a winner's inputs asks for that winner again."""
    if not trained.reverted or trained.run is None:
        return book
    old = book.version_or_none(names.version_name(trained.run.number))
    won = old is not None and old.verdict is Verdict.PROMOTE and old.state in (State.PREVIOUS, State.RETIRED)
    return book.marked(old.version, State.CANDIDATE) if old is not None and won else book


def _judged(case: Case, wish: Wish, book: Book, candidate: status.VersionStatus) -> Book:
    name, rules = candidate.version, wish.spec.promotion
    newest = [version.version for version in book.versions if version.state is State.CANDIDATE][-1]
    if not case.usable_or_none(name):
        return book
    if candidate.verdict is not Verdict.PROMOTE:
        return book.marked(name, State.REJECTED)
    if name == newest and rules.policy is promotions.Policy.AUTOMATIC:
        return book.promote(name)
    return book if name == newest else book.marked(name, State.RETIRED)


def _approved(case: Case, wish: Wish, book: Book) -> Book:
    """With policy Manual a commit is an approval. It counts once, when it changes, and for what is not decided yet."""
    name = wish.spec.promotion.approved_version
    entry = book.version_or_none(name)
    if name is None or entry is None or not case.usable_or_none(name) or name == book.promoted:
        return book
    undecided = entry.state in (State.CANDIDATE, State.REJECTED)
    return book.promote(name) if undecided or name != case.before.approved_version else book


def _said(case: Case, wish: Wish, trained: Trained, book: Book) -> Stage:
    """Condition Promoted and the evidence, for the current run's version."""
    missing = wish.spec.promotion.approved_version
    stuck = None
    if missing and not case.seen.version_or_none(missing) and not book.version_or_none(missing):
        text = f"promotion.approvedVersion: {case.problem_with(missing)}"
        stuck = Headline(PHASE.FAILED, "Stuck", "ApprovedVersionMissing", text)
    run = trained.run
    current = book.version_or_none(names.version_name(run.number)) if run and run.completion_time else None
    if current is None:
        return Stage(headline=stuck)
    found = case.seen.version_or_none(current.version)
    summary = evaluation(found) if found else None
    reason = _reason(case, wish, current)
    text = _sentence(reason, current, summary or case.before.evaluation, book)
    holds: Word = Word("True" if current.state is State.PROMOTED else "False", reason, text)
    updates = {"evaluation": summary} if summary else {}
    return Stage({C.PROMOTED: holds}, stuck, updates=updates)


def _reason(case: Case, wish: Wish, current: status.VersionStatus) -> str:
    if current.state is State.PROMOTED:
        chosen = case.condition(C.PROMOTED).reason == "PromotedByHand" or current.verdict is not Verdict.PROMOTE
        return "PromotedByHand" if chosen else "CandidatePromoted"
    if current.state is State.CANDIDATE:
        off = wish.spec.promotion.policy is promotions.Policy.NEVER
        return "PromotionOff" if off else "AwaitingApproval"
    if current.state is State.REJECTED:
        return "CandidateInconclusive" if current.verdict is Verdict.INCONCLUSIVE else "CandidateRejected"
    return "RolledBack"


def _sentence(reason: str, current: status.VersionStatus, evidence: status.EvaluationStatus | None, book: Book) -> str:
    name, promoted = current.version, book.promoted
    serves_on = f"; {promoted} stays promoted" if promoted and promoted != name else "; no version is promoted yet"
    said = {
        "CandidatePromoted": f"{name} was promoted",
        "PromotedByHand": f"{name} was promoted by a person",
        "CandidateRejected": f"{name} was rejected{serves_on}",
        "CandidateInconclusive": f"{name}: the evidence does not decide{serves_on}",
        "AwaitingApproval": f"{name} won and waits for promotion.approvedVersion: {name}{serves_on}",
        "PromotionOff": f"{name} won and is kept; promotion.policy is Never{serves_on}",
        "RolledBack": f"{name} gave way to {promoted}",
    }[reason]
    return f"{said} ({_numbers(evidence)})" if evidence else said


def _numbers(evidence: status.EvaluationStatus) -> str:
    return (
        f"{evidence.metric} {evidence.score}, improvement surely above {evidence.lower_bound}, n = {evidence.samples}"
    )


def evaluation(found: observed.SealedVersion) -> status.EvaluationStatus | None:
    """The verdict's numbers as status has them."""
    summary = found.evaluation
    if summary is None:
        return None
    return status.EvaluationStatus(
        metric=shown.clip(summary.metric, 253),
        base=shown.score(summary.base),
        serving=None if summary.serving is None else shown.score(summary.serving),
        candidate=shown.score(summary.candidate),
        delta=shown.score(summary.delta),
        lower_bound=shown.score(summary.lower_bound),
        samples=max(0, summary.samples),
        verdict=summary.verdict,
        score=f"{shown.short_score(summary.base)} → {shown.short_score(summary.candidate)}",
        reasons=tuple(shown.clip(reason) for reason in summary.reasons[:16]),
    )
