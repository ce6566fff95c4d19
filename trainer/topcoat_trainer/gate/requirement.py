"""What must hold for a promotion, by the manifest or by default, in numbers and in words. Judges with verdict.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from topcoat.api.evaluation import DIRECTIONS, Direction, Evaluation, MetricName
from topcoat.api.promotion import Against, Promotion, Requirement, Verdict
from topcoat.api.report import Comparison, TaskKind
from topcoat_trainer import task
from topcoat_trainer.gate import bootstrap, table, verdict
from topcoat_trainer.gate.table import Heldout, Measured
from topcoat_trainer.gate.verdict import Evidence, Limit

# A better first measure may not be bought with likelihoods gone bad: so many nats per token may be lost at most.
LOSS_MARGIN = "0.05"
PERCENT = frozenset({"Accuracy", "ExactMatch", "F1", "RougeL", "JSONValid", table.FIELDS})
NAMES = {"Loss": "loss", "Perplexity": "perplexity", "Accuracy": "accuracy", "ExactMatch": "exact match",
         "RougeL": "ROUGE-L", "JSONValid": "valid JSON"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Wanted:
    """Measures in order, the first is the one in status; requirements, none of them implied any more."""

    metrics: tuple[MetricName, ...]
    lower_is_better: frozenset[str]
    requirements: tuple[Requirement, ...]


def wanted(evaluation: Evaluation, promotion: Promotion, kind: TaskKind, *, serves: bool) -> Wanted:
    """The manifest's measures and requirements, with what it leaves open filled in."""
    chosen = tuple(metric.name for metric in evaluation.metrics) or task.METRICS[kind]
    directions = DIRECTIONS | {
        metric.name: metric.direction for metric in evaluation.metrics if metric.direction is not None
    }
    lower = frozenset(name.value for name, direction in directions.items() if direction is Direction.LOWER)
    asked = promotion.requirements or _default(chosen[0], serves=serves)
    return Wanted(chosen, lower, asked if serves else _without_echoes(asked))


def _without_echoes(asked: tuple[Requirement, ...]) -> tuple[Requirement, ...]:
    """While no version serves, `Serving` means the base model: what a stricter requirement against it says already is
    not said twice.
    """
    return tuple(
        one
        for one in asked
        if one.against is Against.BASE or not any(_covers(other, one) for other in asked if other is not one)
    )


def _covers(other: Requirement, one: Requirement) -> bool:
    return (
        other.against is Against.BASE
        and other.metric is one.metric
        and needed(other) >= needed(one)
        and float(other.confidence) >= float(one.confidence)
        and other.min_samples >= one.min_samples
    )


def _default(first: MetricName, *, serves: bool) -> tuple[Requirement, ...]:
    found = [Requirement(metric=first, against=Against.BASE)]
    if serves:
        found.append(Requirement(metric=first, against=Against.SERVING))
    if first not in (MetricName.LOSS, MetricName.PERPLEXITY):
        found.append(Requirement(metric=MetricName.LOSS, against=Against.BASE, max_regression=LOSS_MARGIN))
    return tuple(found)


def needed(requirement: Requirement) -> float:
    """The lower bound must be above this."""
    if requirement.max_regression is not None:
        return -float(requirement.max_regression)
    return float(requirement.min_improvement or 0)


def name(metric: str) -> str:
    return NAMES.get(metric, metric)


def amount(metric: str, value: float) -> str:
    """A score: `0.812` or `81.2 %`."""
    return f"{100 * value:.1f} %" if metric in PERCENT else f"{value:.3f}"


def difference(metric: str, value: float) -> str:
    """A signed improvement: `+3.1 points` or `+0.120`."""
    return f"{100 * value:+.1f} points" if metric in PERCENT else f"{value:+.3f}"


def rule(requirements: Sequence[Requirement], guards: int) -> str:
    """The rule of the gate in words, before anything is known."""
    parts = [_clause(requirement) for requirement in requirements]
    text = "Promote when " + ("; and ".join(parts) if parts else "there is something to compare")
    if guards:
        text += f"; and {'no guard' if guards > 1 else 'the guard does not'} fail{'s' if guards > 1 else ''}"
    return (
        f"{text}. Reject when a requirement is surely missed (even the upper bound is below zero) or a guard fails. "
        "Otherwise hold, and keep what serves. Bounds come from a paired bootstrap over groups of held-out rows."
    )


def _clause(requirement: Requirement) -> str:
    against = {Against.BASE: "the base model", Against.SERVING: "the serving version"}[requirement.against]
    sure = f"{100 * float(requirement.confidence):g} % sure, on at least {requirement.min_samples} rows"
    if requirement.max_regression is not None:
        worse = amount(requirement.metric, float(requirement.max_regression))
        return f"{name(requirement.metric)} is not worse than with {against} by more than {worse} ({sure})"
    more = float(requirement.min_improvement or 0)
    by = f" by more than {amount(requirement.metric, more)}" if more else ""
    return f"{name(requirement.metric)} is better than with {against}{by} ({sure})"


@dataclass(frozen=True, slots=True)
class Rival:
    """What the candidate is compared with. `look_up` gives its measure, or None; `absent` says why it has none."""

    subject: str
    words: str
    look_up: Callable[[str], Measured | None]
    absent: str = ""


@dataclass(frozen=True, slots=True)
class Match:
    """One comparison to make: measure, need and confidence."""

    metric: str
    needed: float
    confidence: float
    min_samples: int
    lower_is_better: bool


def match(requirement: Requirement, lower_is_better: frozenset[str]) -> Match:
    return Match(
        requirement.metric.value,
        needed(requirement),
        float(requirement.confidence),
        requirement.min_samples,
        requirement.metric.value in lower_is_better,
    )


def compared(heldout: Heldout, asked: Match, candidate: Measured | None, rival: Rival) -> Comparison:
    """The comparison, its verdict and a sentence."""
    other = rival.look_up(asked.metric)
    if candidate is None or other is None:
        why = rival.absent or f"{name(asked.metric)} was not measured: this task has no such answers"
        return _comparison(asked, rival.subject, Evidence(0.0, 0.0, 0.0, 0, 0), Verdict.INCONCLUSIVE, _sentence(why))
    mine, theirs, drawn = table.paired(heldout, candidate, other)
    if not len(mine.sums):
        why = "the candidate and what it is compared with answered no row in common"
        return _comparison(asked, rival.subject, Evidence(0.0, 0.0, 0.0, 0, 0), Verdict.INCONCLUSIVE, _sentence(why))
    found = bootstrap.improvement(mine, theirs, drawn, asked.confidence, lower_is_better=asked.lower_is_better)
    evidence = Evidence(found.value, found.lower, found.upper, len(mine.sums), drawn.count)
    said = verdict.judged(evidence, Limit(asked.needed, asked.min_samples))
    values = (theirs.value(), mine.value())
    return _comparison(
        asked, rival.subject, evidence, said, _words(asked, rival, evidence, values) + _why(asked, evidence, said)
    )


def _comparison(asked: Match, subject: str, evidence: Evidence, said: Verdict, sentence: str) -> Comparison:
    return Comparison(
        metric=asked.metric,
        against=subject,
        delta=evidence.delta,
        lower=evidence.lower,
        upper=evidence.upper,
        needed=asked.needed,
        confidence=asked.confidence,
        samples=evidence.samples,
        verdict=said,
        sentence=sentence,
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _words(asked: Match, rival: Rival, evidence: Evidence, values: tuple[float, float]) -> str:
    before, after = (amount(asked.metric, value) for value in values)
    lower, upper = (difference(asked.metric, bound) for bound in (evidence.lower, evidence.upper))
    return _sentence(
        f"{name(asked.metric)} went from {before} ({rival.words}) to {after} on {evidence.samples} held-out rows, "
        f"an improvement of {difference(asked.metric, evidence.delta)}; at {100 * asked.confidence:g} % confidence "
        f"of more than {lower}, and of less than {upper}"
    )


def _why(asked: Match, evidence: Evidence, said: Verdict) -> str:
    if evidence.samples < asked.min_samples:
        return f" That is too few rows to judge: {asked.min_samples} are needed."
    if evidence.groups < verdict.GROUPS_AT_LEAST:
        return f" They form only {evidence.groups} groups, too few to judge: {verdict.GROUPS_AT_LEAST} are needed."
    need = f"the needed {difference(asked.metric, asked.needed)}" if asked.needed else "zero"
    if asked.needed < 0:
        need = f"the allowed {difference(asked.metric, asked.needed)}"
    if said is Verdict.PROMOTE:
        return f" Even the lower bound is above {need}."
    if said is Verdict.REJECT:
        return " Even the upper bound says that it is worse than allowed."
    return f" The lower bound is not above {need}, so this may be chance."
