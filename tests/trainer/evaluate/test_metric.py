"""Measures, by example and against their definitions."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from topcoat_trainer.evaluate import metric

TEXT = st.text(max_size=40)


@pytest.mark.parametrize(
    "answer",
    ["injury", " Injury\n", "INJURY.", '"injury"', "“Injury”.", "injury!", "'injury.'"],
)
def test_the_way_of_writing_does_not_count(answer: str) -> None:
    assert metric.exact_match(answer, "injury") == 1


@pytest.mark.parametrize("answer", ["injury because", "the injury", "", "injuries", "in jury"])
def test_anything_more_or_less_counts(answer: str) -> None:
    assert metric.exact_match(answer, "injury") == 0


def test_json_is_compared_as_a_value() -> None:
    expected = '{"kind": "fall", "parts": ["wrist"], "amount": 12}'
    assert metric.exact_match('{"amount":12,\n "parts":["wrist"],"kind":"fall"}', expected) == 1
    assert metric.exact_match('{"amount":"12","parts":["wrist"],"kind":"fall"}', expected) == 0
    assert metric.exact_match('Here: {"amount":12,"parts":["wrist"],"kind":"fall"}', expected) == 0


def test_fields_are_counted_in_both_objects() -> None:
    expected = '{"a": 1, "b": "Left Wrist", "c": null}'
    assert metric.field_accuracy('{"a": 1, "b": "left wrist.", "c": null}', expected) == 1
    assert metric.field_accuracy('{"a": 1, "b": "right"}', expected) == pytest.approx(1 / 3)
    assert metric.field_accuracy('{"a": 1, "b": "left wrist", "c": null, "d": 2}', expected) == pytest.approx(3 / 4)
    assert metric.field_accuracy('{"a": true}', '{"a": 1}') == 0
    assert metric.field_accuracy("no", expected) == 0


@pytest.mark.parametrize("text", ["[1]", "3", "{", "", '{"a": NaN}', "{'a': 1}", "{}{}", "[" * 100_000])
def test_what_is_not_one_object_is_not_valid(text: str) -> None:
    assert metric.json_valid(text) == 0


def test_rouge_l_is_order_and_token_f1_is_not() -> None:
    assert metric.token_f1("wrist broken the", "the broken wrist") == 1
    assert metric.rouge_l("wrist broken the", "the broken wrist") == pytest.approx(1 / 3)
    assert metric.rouge_l("the cat sat on the mat", "the cat lay on a mat") == pytest.approx(2 * 4 / 12)


@given(TEXT, TEXT)
def test_scores_lie_between_nothing_and_all_and_do_not_depend_on_the_side(left: str, right: str) -> None:
    for measure in (metric.token_f1, metric.rouge_l):
        assert 0 <= measure(left, right) <= 1
        assert measure(left, right) == pytest.approx(measure(right, left))
        assert measure(left, left) == 1
    assert metric.exact_match(left, left) == 1


@given(TEXT)
def test_normal_is_stable(text: str) -> None:
    assert metric.exact_match(metric.normal(text), text) in (0.0, 1.0)
    assert metric.label_or_none(f" {text.strip()} ", [text]) == text or not text.strip()


def test_macro_f1_gives_small_labels_the_same_weight() -> None:
    expected = ["a"] * 8 + ["b"] * 2
    assert metric.macro_f1(["a"] * 10, expected, ["a", "b", "c"]) == pytest.approx((16 / 18 + 0) / 2)
    assert metric.macro_f1(expected, expected, ["a", "b", "c"]) == 1


def test_perplexity_of_a_hopeless_model_is_infinite_and_no_error() -> None:
    assert metric.perplexity(0) == 1
    assert metric.perplexity(1e4) == math.inf
