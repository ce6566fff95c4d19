"""What the rows ask the model to do, judged by their answers alone, and the measures that make sense for it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from topcoat.api.evaluation import MetricName
from topcoat.api.report import TaskKind
from topcoat_trainer.example import Example

MOST_LABELS = 50
LABEL_CHARACTERS = 60
ROWS_PER_LABEL = 5


@dataclass(frozen=True, slots=True)
class Task:
    """The kind, and the labels in sorted order where there are any."""

    kind: TaskKind
    labels: tuple[str, ...] = ()


def task(examples: Sequence[Example]) -> Task:
    """The task of the training rows."""
    if all(row.text is not None for row in examples):
        return Task(TaskKind.TEXT)
    if all(row.label is not None for row in examples):
        return Task(TaskKind.CLASSIFICATION, tuple(sorted({row.label or "" for row in examples})))
    answers = [row.completion.strip() for row in examples]
    if all(map(is_json_object, answers)):
        return Task(TaskKind.JSON)
    labels = _labels(examples, answers)
    return Task(TaskKind.CLASSIFICATION, labels) if labels else Task(TaskKind.GENERATION)


def is_json_object(text: str) -> bool:
    """Whether an answer is one JSON object."""
    if not text.startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _labels(examples: Sequence[Example], answers: Sequence[str]) -> tuple[str, ...]:
    """The answers as labels, if they are few, short, repeated, and each stands alone after one question."""
    counts = Counter(answers)
    few = 2 <= len(counts) <= MOST_LABELS and len(answers) >= ROWS_PER_LABEL * len(counts)
    short = all(len(answer) <= LABEL_CHARACTERS and "\n" not in answer for answer in counts)
    single = all(sum(message.role == "assistant" for message in row.messages) == 1 for row in examples)
    return tuple(sorted(counts)) if few and short and single else ()


METRICS: dict[TaskKind, tuple[MetricName, ...]] = {
    TaskKind.CLASSIFICATION: (MetricName.ACCURACY, MetricName.F1, MetricName.EXACT_MATCH, MetricName.LOSS),
    TaskKind.JSON: (MetricName.EXACT_MATCH, MetricName.JSON_VALID, MetricName.F1, MetricName.LOSS),
    TaskKind.GENERATION: (MetricName.LOSS, MetricName.ROUGE_L, MetricName.F1, MetricName.EXACT_MATCH),
    TaskKind.TEXT: (MetricName.LOSS, MetricName.PERPLEXITY),
}
