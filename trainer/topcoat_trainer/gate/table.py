"""From answers to numbers: each measure of each subject with its interval, wins and losses, the confusion matrix.

Decides nothing; reads no file and runs no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from topcoat.api.evaluation import MetricName
from topcoat.api.report import AnswerPair, Confusion, Score, TaskKind
from topcoat_trainer.evaluate import metric
from topcoat_trainer.example import Example
from topcoat_trainer.gate import bootstrap
from topcoat_trainer.gate.bootstrap import Draw, Sample
from topcoat_trainer.gate.exam import Answers

PAIRS_AT_MOST = 20
FIELDS = "FieldAccuracy"
ACTIVITIES = {"free": ("read", "free"), "choice": ("read", "choose"), "loss": ("loss",)}
TEXT_MEASURES = {
    MetricName.EXACT_MATCH.value: metric.exact_match,
    MetricName.ACCURACY.value: metric.exact_match,
    MetricName.F1.value: metric.token_f1,
    MetricName.ROUGE_L.value: metric.rouge_l,
    MetricName.JSON_VALID.value: lambda answer, _: metric.json_valid(answer),
    FIELDS: metric.field_accuracy,
}


@dataclass(frozen=True, slots=True)
class Heldout:
    """The rows as they are judged: right answers, groups, labels."""

    kind: TaskKind
    examples: tuple[Example, ...]
    labels: tuple[str, ...]
    seed: int

    def places(self, answers: Answers) -> list[int]:
        """Places of the answered rows among all."""
        by_row = {example.row: place for place, example in enumerate(self.examples)}
        return [by_row[row] for row in answers.rows]

    def draw(self, places: Sequence[int]) -> Draw:
        return bootstrap.draw([self.examples[place].group for place in places], self.seed)


@dataclass(frozen=True, slots=True)
class Measured:
    """One measure of one subject: which rows (by place among all), what came of each, and from which kind of answer."""

    places: tuple[int, ...]
    sample: Sample
    source: str


def measured_or_none(heldout: Heldout, answers: Answers, name: str, *, free: bool = False) -> Measured | None:
    """The measure, or None where the subject has no such answers. `free`: not the choice, what it wrote by itself."""
    places = heldout.places(answers)
    if name in (MetricName.LOSS, MetricName.PERPLEXITY):
        if not answers.losses or free:
            return None
        finish = bootstrap.mean_exponential if name == MetricName.PERPLEXITY else bootstrap.mean
        return Measured(tuple(places), Sample(bootstrap.of_values(answers.losses).sums, finish), "loss")
    choosing = heldout.kind is TaskKind.CLASSIFICATION and name in (MetricName.ACCURACY, MetricName.F1)
    if choosing and not free:
        return _chosen_or_none(heldout, answers, places, name)
    if not answers.free:
        return None
    texts = {places[local]: text for local, text in answers.free.items()}
    if choosing and name == MetricName.F1:
        found = [metric.label_or_none(text, heldout.labels) or "" for text in texts.values()]
        return Measured(tuple(texts), _macro_f1(heldout, found, list(texts)), "free")
    measure = TEXT_MEASURES[name]
    values = [measure(text, heldout.examples[place].completion) for place, text in texts.items()]
    return Measured(tuple(texts), bootstrap.of_values(values), "free")


def _chosen_or_none(heldout: Heldout, answers: Answers, places: list[int], name: str) -> Measured | None:
    if not answers.labels:
        return None
    if name == MetricName.F1:
        return Measured(tuple(places), _macro_f1(heldout, answers.labels, places), "choice")
    right = [float(label == heldout.examples[place].label) for place, label in zip(places, answers.labels, strict=True)]
    return Measured(tuple(places), bootstrap.of_values(right), "choice")


def _macro_f1(heldout: Heldout, found: Sequence[str], places: Sequence[int]) -> Sample:
    """Per label: right, said, were."""
    said = np.array([[answer == label for label in heldout.labels] for answer in found], dtype=np.float64)
    were = np.array([[heldout.examples[place].label == label for label in heldout.labels] for place in places])
    sums = np.stack([said * were, said, were.astype(np.float64)], axis=-1).reshape(len(found), -1)
    return Sample(sums, bootstrap.macro_f1)


def score_row(heldout: Heldout, subject: str, name: str, measured: Measured, answers: Answers) -> Score:
    """One line of the score table."""
    found = bootstrap.interval(measured.sample, heldout.draw(measured.places))
    spent = sum(answers.seconds.get(activity, 0.0) for activity in ACTIVITIES[measured.source])
    how = {"choice": "constrained to the labels", "free": "free answer", "loss": "likelihood of the right answer"}
    if measured.source == "loss" and heldout.kind is TaskKind.CLASSIFICATION:
        spent = 0.0
    return Score(
        subject=subject,
        metric=name,
        value=found.value,
        lower=found.lower,
        upper=found.upper,
        samples=len(measured.places),
        prompt_tokens=answers.prompt_tokens or None,
        seconds_per_answer=round(spent / len(measured.places), 4) if spent else None,
        note="; ".join([how[measured.source], *answers.notes] if answers.prompt_tokens else answers.notes),
    )


def paired(heldout: Heldout, candidate: Measured, other: Measured) -> tuple[Sample, Sample, Draw]:
    """Both samples on the rows that both have, and one draw for both."""
    shared = sorted(set(candidate.places) & set(other.places))
    return _only(candidate, shared), _only(other, shared), heldout.draw(shared)


def _only(measured: Measured, places: Sequence[int]) -> Sample:
    where = {place: i for i, place in enumerate(measured.places)}
    return Sample(measured.sample.sums[[where[place] for place in places]], measured.sample.finish)


def confusion(heldout: Heldout, answers: Answers) -> Confusion:
    """counts[expected][answered] of constrained answers."""
    index = {label: i for i, label in enumerate(heldout.labels)}
    counts = [[0] * len(index) for _ in index]
    for place, label in zip(heldout.places(answers), answers.labels, strict=True):
        counts[index[heldout.examples[place].label or ""]][index[label]] += 1
    return Confusion(labels=list(heldout.labels), counts=counts)


def pairs(heldout: Heldout, before: Answers, after: Answers) -> tuple[list[AnswerPair], list[AnswerPair]]:
    """Where the candidate is better, and where it is worse: the clearest first."""
    gains = _gains(heldout, before, after)
    order = sorted(gains, key=lambda place: (-abs(gains[place][0]), -gains[place][1], place))
    wins = [_pair(heldout, place, before, after, gains[place][0]) for place in order if gains[place][0] > 0]
    losses = [_pair(heldout, place, before, after, gains[place][0]) for place in order if gains[place][0] < 0]
    return wins[:PAIRS_AT_MOST], losses[:PAIRS_AT_MOST]


def _gains(heldout: Heldout, before: Answers, after: Answers) -> dict[int, tuple[float, float]]:
    """By place: the gain that is shown, and how much the loss fell, which orders equal gains."""
    left, right = heldout.places(before), heldout.places(after)
    drops = {}
    if before.losses and after.losses:
        old, new = dict(zip(left, before.losses, strict=True)), dict(zip(right, after.losses, strict=True))
        drops = {place: old[place] - new[place] for place in old.keys() & new.keys()}
    if heldout.kind is TaskKind.CLASSIFICATION:
        was, now = dict(zip(left, before.labels, strict=True)), dict(zip(right, after.labels, strict=True))
        wanted = {place: heldout.examples[place].label for place in was.keys() & now.keys()}
        return {p: (float(now[p] == want) - float(was[p] == want), abs(drops.get(p, 0))) for p, want in wanted.items()}
    if heldout.kind is TaskKind.TEXT:
        return {place: (drop, 0.0) for place, drop in drops.items()}
    measure = metric.field_accuracy if heldout.kind is TaskKind.JSON else metric.token_f1
    old_text, new_text = _texts(heldout, before), _texts(heldout, after)
    return {
        place: (
            measure(new_text[place], heldout.examples[place].completion)
            - measure(old_text[place], heldout.examples[place].completion),
            abs(drops.get(place, 0)),
        )
        for place in old_text.keys() & new_text.keys()
    }


def _texts(heldout: Heldout, answers: Answers) -> dict[int, str]:
    places = heldout.places(answers)
    return {places[local]: text for local, text in answers.free.items()}


def _pair(heldout: Heldout, place: int, before: Answers, after: Answers, gain: float) -> AnswerPair:
    example = heldout.examples[place]
    return AnswerPair(
        row=example.row,
        prompt=asked_text(example),
        expected=example.completion if example.text is None else "",
        before=_shown(heldout, place, before),
        after=_shown(heldout, place, after),
        gain=gain,
    )


def asked_text(example: Example) -> str:
    """What was asked, without a system prompt; of plain text, all of it."""
    return "\n\n".join(turn.content for turn in example.prompt if turn.role != "system") or (example.text or "")


def _shown(heldout: Heldout, place: int, answers: Answers) -> str:
    local = heldout.places(answers).index(place)
    if heldout.kind is TaskKind.CLASSIFICATION:
        return answers.labels[local]
    return answers.free.get(local, "")
