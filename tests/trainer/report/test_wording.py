"""Numbers and untrusted text as they are shown."""

from __future__ import annotations

import pytest

from topcoat.api.evaluation import DIRECTIONS, Direction
from topcoat_trainer.report import wording


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("Accuracy", 0.8174, "81.7 %"),
        ("Loss", 0.4121, "0.412"),
        ("Accuracy", 0.0, "0.0 %"),
        ("something new", 3.0, "3.000"),
    ],
)
def test_a_score_reads_in_the_unit_of_its_measure(metric: str, value: float, words: str) -> None:
    assert wording.score(metric, value) == words


@pytest.mark.parametrize(
    ("metric", "value", "words"),
    [
        ("Accuracy", 0.427, "+42.7 points"),
        ("Accuracy", -0.0361, "\u22123.6 points"),
        ("Loss", 0.25, "+0.250"),
        ("Loss", -0.0001, "0.000"),
    ],
)
def test_an_improvement_shows_its_sign_and_zero_has_none(metric: str, value: float, words: str) -> None:
    assert wording.difference(metric, value) == words


def test_every_metric_of_the_api_has_words_and_the_same_direction() -> None:
    assert set(wording.MEASURES) == {name.value for name in DIRECTIONS} | {"FieldAccuracy"}
    for name, direction in DIRECTIONS.items():
        assert wording.measure(name.value).lower_is_better == (direction is Direction.LOWER)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "0.000 s"),
        (0.0004, "< 0.001 s"),
        (0.061, "0.061 s"),
        (59.94, "59.9 s"),
        (59.99, "1 min 00 s"),
        (246.2, "4 min 06 s"),
        (3599.9, "1 h 00 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds_read_in_the_largest_unit_that_fits(value: float, words: str) -> None:
    assert wording.seconds(value) == words


def test_a_moment_is_shown_in_utc_and_an_unreadable_one_as_it_is() -> None:
    assert wording.moment("2026-11-23T14:40:00+01:00") == "23 November 2026, 13:40 UTC"
    assert wording.moment("yesterday") == "yesterday"
    assert wording.elapsed("2026-11-23T13:40:00Z", "2026-11-23T13:44:12Z") == "4 min 12 s"
    assert wording.elapsed("yesterday", "2026-11-23T13:44:12Z") == ""


def test_control_characters_direction_overrides_and_half_characters_become_visible() -> None:
    assert wording.visible("a\x00b\x1b[31m\u202e\u2066\ud83d") == "a[U+0000]b[U+001B][31m[U+202E][U+2066]\ufffd"
    assert wording.visible("line\r\nnext\ttab") == "line\nnext\ttab"
    assert wording.visible("grün 猫 שלום 👩‍👩‍👧") == "grün 猫 שלום 👩‍👩‍👧"
    assert wording.visible(7) == 7


def test_a_long_text_is_cut_and_says_how_much_is_missing() -> None:
    assert wording.cut("x" * 10, 10) == "x" * 10
    assert wording.cut("x" * 2010, 10) == "x" * 10 + "\n… 2,000 more characters are left out here"
