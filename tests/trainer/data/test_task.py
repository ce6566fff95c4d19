"""What the rows ask for, judged by their answers."""

from __future__ import annotations

from topcoat.api.report import TaskKind
from topcoat_trainer.example import Example, Message
from topcoat_trainer.task import METRICS, task


def answers(*texts: str) -> list[Example]:
    return [Example(i, (Message("user", f"q{i}"), Message("assistant", t, trained=True))) for i, t in enumerate(texts)]


def test_labels_make_classification() -> None:
    rows = [Example(1, (), label="b"), Example(2, (), label="a")]
    assert task(rows).labels == ("a", "b")


def test_few_short_repeated_answers_are_labels() -> None:
    made = task(answers(*["yes", "no", "yes"] * 5))
    assert made.kind is TaskKind.CLASSIFICATION
    assert made.labels == ("no", "yes")


def test_answers_that_all_parse_as_objects_are_json() -> None:
    assert task(answers('{"a": 1}', ' {"b": [2]} ')).kind is TaskKind.JSON
    assert task(answers('{"a": 1}', "[1]")).kind is TaskKind.GENERATION


def test_free_answers_are_generation_and_plain_rows_are_text() -> None:
    assert task(answers("one story", "another story", "a third")).kind is TaskKind.GENERATION
    assert task([Example(1, text="abc")]).kind is TaskKind.TEXT


def test_every_kind_has_measures() -> None:
    assert set(METRICS) == set(TaskKind)
    assert all(METRICS.values())
