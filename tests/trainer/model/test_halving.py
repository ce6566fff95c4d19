"""How far the trials of a sweep train, and who goes on."""

from __future__ import annotations

import itertools

import pytest

from topcoat_trainer import halving


@pytest.mark.parametrize(
    ("trials", "rungs"),
    [
        (1, []),
        (2, [(400, 1)]),
        (3, [(200, 2), (400, 1)]),
        (4, [(200, 2), (400, 1)]),
        (8, [(100, 4), (200, 2), (400, 1)]),
        (12, [(50, 6), (100, 3), (200, 2), (400, 1)]),
        (16, [(25, 8), (50, 4), (100, 2), (200, 1)]),
    ],
)
def test_the_better_half_trains_twice_as_far(trials: int, rungs: list[tuple[int, int]]) -> None:
    assert [(rung.step, rung.kept) for rung in halving.rungs(trials, 800)] == rungs


@pytest.mark.parametrize("steps", [100, 135, 800, 10_000])
@pytest.mark.parametrize("trials", range(1, 17))
def test_all_trials_cost_little_more_than_two_trainings(trials: int, steps: int) -> None:
    rungs = halving.rungs(trials, steps)
    assert halving.trainings(rungs, trials, steps) <= 2.6
    assert halving.trainings(halving.rungs(8, 800), 8, 800) == 2.5


@pytest.mark.parametrize(("trials", "steps"), list(itertools.product(range(2, 17), range(1, 20))))
def test_the_shortest_runs_have_rungs_that_end_with_one(trials: int, steps: int) -> None:
    rungs = halving.rungs(trials, steps)
    assert [rung.step for rung in rungs] == sorted({rung.step for rung in rungs})
    assert [rung.kept for rung in rungs] == sorted((rung.kept for rung in rungs), reverse=True)
    assert rungs[-1].kept == 1
    assert 1 <= rungs[0].step <= rungs[-1].step <= steps


def test_the_lower_loss_is_better_then_the_lower_price_then_the_earlier() -> None:
    assert halving.best({0: 2.0, 1: 1.0, 2: 1.5}, {0: 8, 1: 64, 2: 16}) == [1, 2, 0]
    assert halving.best({0: 1.0, 1: 1.0, 2: 1.0}, {0: 16, 1: 8, 2: 8}) == [1, 2, 0]
