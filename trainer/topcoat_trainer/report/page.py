"""From an EvaluationReport to what stands on the page: order, names, sentences. Pure; no HTML, no file, no judging.

Text of rows is passed on in `wins` and `losses` and in the shared system prompt only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from topcoat.api.promotion import Verdict
from topcoat.api.report import AnswerPair, Comparison, Confusion, EstimateCheck, EvaluationReport, Score, StageCost
from topcoat_trainer.report import chart, wording

LABELS_AT_MOST = 24
MIX_UPS_AT_MOST = 5
SHORT_ANSWERS = 60
"""Characters of two answers that fit one line."""
HEAT_LEVELS = 4


@dataclass(frozen=True, slots=True)
class Tone:
    """How a verdict looks and what it means. `mark` and `word` carry it without colour."""

    style: str
    mark: str
    word: str
    meaning: str


TONES = {
    Verdict.PROMOTE: Tone("promote", "✓", "Promote", "is better by the rule below, so the gate lets it serve."),
    Verdict.REJECT: Tone("reject", "✕", "Reject", "is not served. It is kept, sealed, and explained here."),
    Verdict.INCONCLUSIVE: Tone(
        "hold", "?", "Inconclusive", "may be better or not: the held-out rows cannot tell. It is kept, but not served."
    ),
}

SUBJECTS = {
    "base": "Base model",
    "prompt": "Base model, examples in the prompt",
    "retrieval": "Base model, nearest examples in the prompt",
    "classifier": "Text classifier, no language model",
    "serving": "Serving now",
    "candidate": "Tuned",
}
"""The order and the names of the score table."""

CHART_NAMES = SUBJECTS | {
    "prompt": "Base, examples in prompt",
    "retrieval": "Base, nearest examples",
    "classifier": "Text classifier",
}
CONSTRAINED, FREE = " constrained", " free"
"""Endings of a subject's name: it chose among the labels, or wrote by itself. Without one, the task's usual way."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One line of the score table."""

    name: str
    role: str
    score: Score


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the confusion matrix. `style` is a CSS class: its heat, and whether it is a right answer."""

    count: int
    style: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """The confusion matrix, its most frequent mix-ups, and how many labels were left out."""

    labels: list[str]
    rows: list[tuple[str, list[Cell], int, str]]
    mix_ups: list[tuple[str, str, int]]
    left_out: int


def meaning(report: EvaluationReport) -> str:
    """What the verdict means for this version and for what served before."""
    served = report.serving_version
    rest = (
        ""
        if report.verdict is Verdict.PROMOTE
        else f" {served} goes on serving."
        if served
        else " Nothing else serves."
    )
    return f"Version {report.lineage.version} {TONES[report.verdict].meaning}{rest}"


def headline(report: EvaluationReport) -> str:
    """The first sentence: what was compared, on how many rows, by how much, how surely."""
    measure, metric = wording.measure(report.metric), report.metric
    better = "Lower is better. " if measure.lower_is_better else ""
    labels = ", given the labels" if labels_given(report) else ""
    against = f"{wording.score(metric, report.base)} for the base model{labels}"
    if report.serving is not None:
        against += f" and {wording.score(metric, report.serving)} for {report.serving_version or 'what serves now'}"
    bound = wording.difference(metric, report.lower_bound)
    return (
        f"{wording.sentence(measure.words)} on {wording.count(report.samples)} held-out rows is "
        f"{wording.score(metric, report.candidate)} for {report.lineage.version}, against {against}. {better}"
        f"The improvement on the base model is {wording.difference(metric, report.delta)}; "
        f"its lower bound{_confidence(report)} is {bound}."
    )


def labels_given(report: EvaluationReport) -> bool:
    """Whether the base model's first score is that of choosing among the labels, not of a free answer."""
    return _both_ways(report, report.metric)


def _confidence(report: EvaluationReport) -> str:
    confidences = {c.confidence for c in report.comparisons if c.against == "base" and c.metric == report.metric}
    return f" at {100 * confidences.pop():g} % confidence" if len(confidences) == 1 else ""


def worth_it(report: EvaluationReport, rows: Sequence[ScoreRow]) -> str:
    """How the tuned model stands against the best cheaper way, in score and prompt length; empty without one."""
    cheaper = [row for row in rows if _kind(row.score) not in ("candidate", "serving")]
    tuned = next((row.score for row in rows if row.score.subject == "candidate"), None)
    if not cheaper or tuned is None:
        return ""
    sign = -1 if wording.measure(report.metric).lower_is_better else 1
    best = max(cheaper, key=lambda row: sign * row.score.value)
    gap = sign * (tuned.value - best.score.value)
    apart = tuned.lower > best.score.upper or tuned.upper < best.score.lower
    size = wording.difference(report.metric, abs(gap)).lstrip("+")
    text = (
        f"The tuned model is {size} {'better' if gap >= 0 else 'worse'} than the best cheaper way "
        f"({best.name}: {wording.score(report.metric, best.score.value)}). "
        f"The two intervals {'do not overlap' if apart else 'overlap'}."
    )
    if tuned.prompt_tokens and best.score.prompt_tokens and tuned.prompt_tokens < 0.9 * best.score.prompt_tokens:
        text += (
            f" It reads {wording.count(tuned.prompt_tokens)} prompt tokens per answer instead of "
            f"{wording.count(best.score.prompt_tokens)}."
        )
    return text


def score_rows(report: EvaluationReport) -> list[ScoreRow]:
    """The first measure's scores, cheaper ways first, the candidate last."""
    scores = [score for score in report.scores if score.metric == report.metric]
    return [ScoreRow(_name(score, report), _role(score), score) for score in sorted(scores, key=_place)]


def other_scores(report: EvaluationReport) -> tuple[list[str], list[tuple[str, str, list[Score | None]]]]:
    """The other measures: their names, and per subject its name, role and scores in that order."""
    metrics = list(dict.fromkeys(score.metric for score in report.scores if score.metric != report.metric))
    table: dict[str, tuple[str, str, list[Score | None]]] = {}
    for score in sorted(report.scores, key=_place):
        if score.metric in metrics:
            row = table.setdefault(score.subject, (_name(score, report), _role(score), [None] * len(metrics)))
            row[2][metrics.index(score.metric)] = score
    return metrics, list(table.values())


def _kind(score: Score) -> str:
    """Whose score it is, however it was asked."""
    return score.subject.removesuffix(CONSTRAINED).removesuffix(FREE)


def _place(score: Score) -> tuple[int, int]:
    """In the order of SUBJECTS, unknown ones before what serves; a free answer before the other one."""
    kind, order = _kind(score), list(SUBJECTS)
    place = order.index(kind) if kind in order else order.index("serving")
    return place, 0 if score.subject.endswith(FREE) else 1 if score.subject == kind == "base" else 2


def _name(score: Score, report: EvaluationReport, names: dict[str, str] = SUBJECTS) -> str:
    kind = _kind(score)
    name = names.get(kind, kind)
    if kind == "candidate":
        name = f"{name}: {report.lineage.version}"
    elif kind == "serving" and report.serving_version:
        name = f"{name}: {report.serving_version}"
    if score.subject.endswith(CONSTRAINED):
        return f"{name}, given the labels"
    by_itself = score.subject.endswith(FREE) or (score.subject == "base" and _both_ways(report, score.metric))
    return f"{name}, free answer" if by_itself else name


def _both_ways(report: EvaluationReport, metric: str) -> bool:
    return any(score.subject == "base" + CONSTRAINED and score.metric == metric for score in report.scores)


def _role(score: Score) -> str:
    return score.subject if score.subject in ("candidate", "serving") else "other"


def score_chart(report: EvaluationReport, rows: Sequence[ScoreRow]) -> chart.Picture:
    """The first measure's scores as dots with intervals."""
    percent = wording.measure(report.metric).unit == "percent"
    marks = [
        chart.Interval(
            name=str(wording.visible(_name(row.score, report, CHART_NAMES))),
            value=row.score.value,
            lower=row.score.lower,
            upper=row.score.upper,
            role=row.role,
            label=wording.score(report.metric, row.score.value),
        )
        for row in rows
    ]
    return chart.intervals(marks, percent=percent)


def outcome_in_short(pair: AnswerPair) -> str:
    """`“injury” → “ear”` where both answers are short enough for one line; else empty."""
    before, after = pair.before.strip(), pair.after.strip()
    short = before and after and len(before) + len(after) <= SHORT_ANSWERS and "\n" not in before + after
    return f"“{before}” → “{after}”" if short else ""


def curve_points(report: EvaluationReport) -> list[chart.CurvePoint]:
    """Both losses of the learning curve; points that are missing or not finite are left out."""
    training = [(point.step, point.loss, "Training") for point in report.curve]
    held_out = [(point.step, point.holdout_loss, "Held-out") for point in report.curve]
    return [
        chart.CurvePoint(step, loss, series)
        for step, loss, series in training + held_out
        if loss is not None and abs(loss) < float("inf")
    ]


def says(comparison: Comparison) -> tuple[str, str]:
    """A requirement's outcome as a badge: its CSS class and its words."""
    return {
        Verdict.PROMOTE: ("yes", "✓ holds"),
        Verdict.REJECT: ("no", "✕ fails"),
        Verdict.INCONCLUSIVE: ("unsure", "? not sure"),
    }[comparison.verdict]


def matrix(confusion: Confusion) -> Matrix:
    """Counts with their heat; of many labels, the most frequent ones."""
    sums = [sum(row) for row in confusion.counts]
    order = sorted(range(len(confusion.labels)), key=lambda index: (-sums[index], index))
    kept = sorted(order[:LABELS_AT_MOST])
    most = max((confusion.counts[i][j] for i in kept for j in kept), default=0)
    rows = [
        (
            confusion.labels[i],
            [_cell(confusion.counts[i][j], most, right=i == j) for j in kept],
            sums[i],
            wording.share(confusion.counts[i][i], sums[i]) if sums[i] else "–",
        )
        for i in kept
    ]
    wrong = [(count, i, j) for i, row in enumerate(confusion.counts) for j, count in enumerate(row) if i != j and count]
    worst = sorted(wrong, key=lambda item: -item[0])[:MIX_UPS_AT_MOST]
    mix_ups = [(confusion.labels[i], confusion.labels[j], count) for count, i, j in worst]
    return Matrix([confusion.labels[i] for i in kept], rows, mix_ups, len(confusion.labels) - len(kept))


def _cell(count: int, most: int, *, right: bool) -> Cell:
    heat = -(-count * HEAT_LEVELS // most) if most else 0
    if not count:
        return Cell(count, "right" if right else "zero")
    return Cell(count, f"right hit-{heat}" if right else f"miss-{heat}")


def label_counts(labels: dict[str, int]) -> list[tuple[str, int]]:
    """Training rows per label, most frequent first, as many as fit a page."""
    return sorted(labels.items(), key=lambda item: (-item[1], item[0]))[:LABELS_AT_MOST]


def check_rows(checks: Sequence[EstimateCheck]) -> list[tuple[str, str, str, str]]:
    """Part, estimated, measured and their ratio, in words; what was not known is called unknown."""
    return [
        (
            check.part,
            wording.amount(check.unit, check.estimated, "unknown"),
            wording.amount(check.unit, check.measured, "–"),
            "–" if check.ratio is None else f"{check.ratio:.2f}",
        )
        for check in checks
    ]


def cost_total(costs: Sequence[StageCost]) -> StageCost:
    """All stages together."""
    return StageCost(
        stage="All stages",
        seconds=sum(cost.seconds for cost in costs),
        cpu_seconds=sum(cost.cpu_seconds for cost in costs),
        gpu_seconds=sum(cost.gpu_seconds for cost in costs),
    )
