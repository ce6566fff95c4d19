"""The bootstrap against what statistics books say, and against itself."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from topcoat_trainer.evaluate import metric
from topcoat_trainer.gate import bootstrap


def rows(share: float, count: int = 400, seed: int = 0) -> list[float]:
    return [float(hit) for hit in np.random.default_rng(seed).binomial(1, share, count)]


def test_the_interval_of_a_share_is_the_books() -> None:
    values = rows(0.7)
    found = bootstrap.interval(bootstrap.of_values(values), bootstrap.draw([None] * 400, 0))
    half = 1.96 * math.sqrt(found.value * (1 - found.value) / 400)
    assert found.value == pytest.approx(np.mean(values))
    assert found.lower == pytest.approx(found.value - half, abs=0.01)
    assert found.upper == pytest.approx(found.value + half, abs=0.01)


def test_pairs_are_surer_than_two_separate_samples() -> None:
    base = rows(0.5)
    better = [min(1.0, value + (1.0 if place % 10 == 0 else 0.0)) for place, value in enumerate(base)]
    drawn = bootstrap.draw([None] * 400, 0)
    paired = bootstrap.improvement(
        bootstrap.of_values(better), bootstrap.of_values(base), drawn, 0.95, lower_is_better=False
    )
    assert paired.lower > 0
    assert paired.upper - paired.lower < 0.05


def test_rows_of_a_group_do_not_count_as_many() -> None:
    values = [float(group % 2) for group in range(20) for _ in range(20)]
    alone = bootstrap.interval(bootstrap.of_values(values), bootstrap.draw([None] * 400, 0))
    grouped = bootstrap.interval(
        bootstrap.of_values(values), bootstrap.draw([str(place // 20) for place in range(400)], 0)
    )
    assert grouped.upper - grouped.lower > 3 * (alone.upper - alone.lower)


def test_equal_subjects_differ_by_exactly_nothing() -> None:
    sample = bootstrap.of_values(rows(0.5))
    same = bootstrap.improvement(sample, sample, bootstrap.draw([None] * 400, 0), 0.95, lower_is_better=True)
    assert (same.value, same.lower, same.upper) == (0, 0, 0)


def test_a_lower_loss_is_a_positive_improvement() -> None:
    low, high = bootstrap.of_values([1.0, 1.2] * 50), bootstrap.of_values([2.0, 2.1] * 50)
    found = bootstrap.improvement(low, high, bootstrap.draw([None] * 100, 0), 0.95, lower_is_better=True)
    assert found.value == pytest.approx(0.95)
    assert found.lower > 0.9


def test_the_seed_decides_all() -> None:
    sample = bootstrap.of_values(rows(0.3))
    first, again, other = (bootstrap.draw([None] * 400, seed).statistics(sample) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_macro_f1_of_sums_is_macro_f1_of_answers() -> None:
    chance = np.random.default_rng(0)
    labels = ["a", "b", "c"]
    expected, answers = chance.choice(labels, 60).tolist(), chance.choice(labels, 60).tolist()
    sums = np.array(
        [
            [float(v) for x in labels for v in (a == b == x, a == x, b == x)]
            for a, b in zip(answers, expected, strict=True)
        ]
    )
    sample = bootstrap.Sample(sums, bootstrap.macro_f1)
    assert sample.value() == pytest.approx(metric.macro_f1(answers, expected, labels))


def test_ten_thousand_rows_take_seconds_and_little_memory() -> None:
    started = time.process_time()
    bootstrap.interval(bootstrap.of_values(rows(0.5, 10_000)), bootstrap.draw([None] * 10_000, 0))
    assert time.process_time() - started < 10
