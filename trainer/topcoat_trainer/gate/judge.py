"""The judgement of a candidate: from everybody's answers to comparisons, a verdict by the rule, and the report.

Writes answers.jsonl beside the candidate; the caller writes the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topcoat.api.evaluation import MetricName
from topcoat.api.promotion import Against, Requirement
from topcoat.api.report import (
    BaseModelCard,
    Comparison,
    CurvePoint,
    DataCard,
    EvaluationReport,
    LayerTrial,
    Lineage,
    Score,
    StageCost,
    SweepTrial,
    TaskKind,
)
from topcoat.api.run import ServingVersion
from topcoat_trainer import adapter
from topcoat_trainer.errors import UserInputError
from topcoat_trainer.gate import answer_file, court, ledger, requirement, table, verdict
from topcoat_trainer.gate.court import BASELINE_SUBJECTS, Court, GuardRows, Say, Subjects, Trial
from topcoat_trainer.gate.exam import Answers
from topcoat_trainer.gate.requirement import Match, Rival, Wanted
from topcoat_trainer.gate.table import Heldout, Measured

__all__ = ["GuardRows", "Say", "Story", "Trial", "judge"]

GUARD_ROWS_AT_LEAST = 10
CONFIDENCE = 0.95
LIKELIHOODS = (MetricName.LOSS, MetricName.PERPLEXITY)


@dataclass(frozen=True, slots=True)
class Story:
    """What the report tells besides: passed on as it is."""

    dataset: DataCard
    base_model: BaseModelCard
    lineage: Lineage
    curve: tuple[CurvePoint, ...] = ()
    costs: tuple[StageCost, ...] = ()
    cache_note: str = ""
    layer_trials: tuple[LayerTrial, ...] = ()
    sweep_trials: tuple[SweepTrial, ...] = ()


def judge(trial: Trial, story: Story, say: Say = lambda *_: None) -> EvaluationReport:
    """The evidence and the verdict."""
    trial = court.labelled(trial)
    wanted = requirement.wanted(trial.evaluation, trial.promotion, trial.task.kind, serves=trial.serving is not None)
    _refuse_unmeasurable(wanted, trial.task.kind)
    adapter.check(trial.candidate, trial.base)
    session = Court(trial, say)
    subjects, heldout = session.hear(), session.heldout
    comparisons = [
        requirement.compared(
            heldout,
            requirement.match(asked, wanted.lower_is_better),
            _headline(heldout, subjects, "candidate", asked.metric.value),
            _rival(heldout, subjects, asked, trial.serving),
        )
        for asked in wanted.requirements
    ]
    guards = [_guarded(session, suite) for suite in trial.guards]
    answer_file.write(trial.candidate, heldout, subjects.answers)
    uses = session.ledger.uses(story.dataset.holdout_digest, ledger.artifact_digest(trial.candidate))
    return _report(_Evidence(trial, story, wanted, heldout, subjects, comparisons, guards), uses)


def _guarded(session: Court, suite: GuardRows) -> Comparison:
    """Whether the candidate forgot something, in the guard's own measure."""
    heldout, before, after = session.guard(suite)
    name = suite.guard.metric.value
    match = Match(
        name, -float(suite.guard.max_regression), CONFIDENCE, GUARD_ROWS_AT_LEAST, name == MetricName.LOSS.value
    )
    rival = Rival("base", "base model", lambda metric: table.measured_or_none(heldout, before, metric))
    found = requirement.compared(heldout, match, table.measured_or_none(heldout, after, name), rival)
    return found.model_copy(update={"sentence": f"Guard {suite.guard.name}: {found.sentence}"})


def _refuse_unmeasurable(wanted: Wanted, kind: TaskKind) -> None:
    named = {*wanted.metrics, *(asked.metric for asked in wanted.requirements)}
    for name in sorted(named):
        if kind is TaskKind.TEXT and name not in LIKELIHOODS:
            raise UserInputError(
                f"{name} compares answers, and rows of plain text have none",
                where="evaluation.metrics and promotion.requirements",
                hint="use Loss or Perplexity, or rows with a prompt and an answer",
            )


def _headline(heldout: Heldout, subjects: Subjects, subject: str, metric: str) -> Measured | None:
    answers = subjects.answers.get(subject)
    return table.measured_or_none(heldout, answers, metric) if answers else None


def _rival(heldout: Heldout, subjects: Subjects, asked: Requirement, serving: ServingVersion | None) -> Rival:
    """Whom a requirement means; while no version serves, `Serving` means the base model."""
    if asked.against is Against.SERVING and serving is not None:
        return Rival(
            "serving",
            f"{serving.version}, which serves",
            lambda metric: _headline(heldout, subjects, "serving", metric),
            subjects.missing.get("serving", ""),
        )
    choosing = heldout.kind is TaskKind.CLASSIFICATION and asked.metric in (MetricName.ACCURACY, MetricName.F1)
    words = "base model, constrained to the labels" if choosing else "base model"
    return Rival("base", words, lambda metric: _headline(heldout, subjects, "base", metric))


@dataclass(frozen=True, slots=True)
class _Evidence:
    """All that the report is made of."""

    trial: Trial
    story: Story
    wanted: Wanted
    heldout: Heldout
    subjects: Subjects
    comparisons: list[Comparison]
    guards: list[Comparison]


def _report(found: _Evidence, uses: int) -> EvaluationReport:
    first = found.wanted.metrics[0].value
    main = _main_comparison(found, first)
    values = {name: _headline(found.heldout, found.subjects, name, first) for name in ("base", "serving", "candidate")}
    scored = {name: measured.sample.value() for name, measured in values.items() if measured is not None}
    candidate = found.subjects.answers["candidate"]
    wins, losses = table.pairs(found.heldout, found.subjects.answers["base"], candidate)
    scores = _scores(found)
    serving = found.trial.serving
    return EvaluationReport(
        verdict=verdict.worst([row.verdict for row in (*found.comparisons, *found.guards)]),
        rule=requirement.rule(found.wanted.requirements, len(found.guards)),
        reasons=_reasons(found, scores),
        metric=first,
        base=scored["base"],
        serving=scored.get("serving"),
        serving_version=serving.version if serving else None,
        candidate=scored["candidate"],
        delta=main.delta,
        lower_bound=main.lower,
        samples=main.samples,
        scores=scores,
        comparisons=found.comparisons,
        guards=found.guards,
        wins=wins,
        losses=losses,
        confusion=table.confusion(found.heldout, candidate) if candidate.labels else None,
        curve=list(found.story.curve),
        costs=[*found.story.costs, *found.subjects.costs],
        cache_note=found.story.cache_note,
        layer_trials=list(found.story.layer_trials),
        sweep_trials=list(found.story.sweep_trials),
        dataset=found.story.dataset,
        base_model=found.story.base_model,
        lineage=found.story.lineage,
        holdout_uses=uses,
    )


def _main_comparison(found: _Evidence, first: str) -> Comparison:
    """The first measure against the base model: the one in status, required or not."""
    for row in found.comparisons:
        if (row.metric, row.against) == (first, "base"):
            return row
    asked = Requirement(metric=found.wanted.metrics[0], min_samples=10)
    return requirement.compared(
        found.heldout,
        requirement.match(asked, found.wanted.lower_is_better),
        _headline(found.heldout, found.subjects, "candidate", first),
        _rival(found.heldout, found.subjects, asked, None),
    )


def _scores(found: _Evidence) -> list[Score]:
    """The score table: the first measure of everybody, then the other measures."""
    rows: list[Score] = []
    extra = [table.FIELDS] if found.heldout.kind is TaskKind.JSON else []
    for metric in [*(name.value for name in found.wanted.metrics), *extra]:
        for subject, answers in _in_order(found.subjects.answers):
            for label, free in _views(found.heldout, subject, metric):
                measured = table.measured_or_none(found.heldout, answers, metric, free=free)
                if measured is not None:
                    rows.append(table.score_row(found.heldout, label, metric, measured, answers))
    return rows


def _in_order(answers: dict[str, Answers]) -> Sequence[tuple[str, Answers]]:
    order = ("candidate", "serving", "base", "prompt", "retrieval", "classifier")
    return [(name, answers[name]) for name in order if name in answers]


def _views(heldout: Heldout, subject: str, metric: str) -> list[tuple[str, bool]]:
    """Names and kinds of answers of a subject: for classification what it wrote by itself stands apart."""
    if heldout.kind is not TaskKind.CLASSIFICATION or metric not in (MetricName.ACCURACY, MetricName.F1):
        return [(subject, False)]
    if subject == "base":
        return [("base constrained", False), ("base", True)]
    return [(subject, False), (f"{subject} free", True)]


def _reasons(found: _Evidence, scores: list[Score]) -> list[str]:
    reasons = [row.sentence for row in (*found.comparisons, *found.guards)]
    first = found.wanted.metrics[0].value
    mine = next((row.value for row in scores if row.subject == "candidate" and row.metric == first), None)
    sign = -1 if first in found.wanted.lower_is_better else 1
    for row in scores:
        if row.subject in BASELINE_SUBJECTS.values() and row.metric == first and mine is not None:
            better = sign * (row.value - mine) >= 0
            if better:
                reasons.append(
                    f"A cheaper way does as well: {row.subject} reaches {requirement.amount(first, row.value)} "
                    f"({row.samples} rows). Consider it before serving a tuned model."
                )
    reasons += [f"Not measured: {subject}: {why}." for subject, why in sorted(found.subjects.missing.items())]
    if float(found.trial.evaluation.generation.temperature):
        reasons.append("Answers were taken greedily: the gate leaves evaluation.generation.temperature out.")
    if found.heldout.kind is TaskKind.CLASSIFICATION and len(found.heldout.labels) < 2:
        reasons.append("There is only one label, so a choice among labels says nothing.")
    return reasons
