"""What `layers: Auto` tries, for how long, and which candidate is enough. Numbers in, numbers out."""

from __future__ import annotations

import pytest

from topcoat_trainer import depth
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.depth import Length


@pytest.mark.parametrize(
    ("total", "layers"),
    [
        (2, [2]),
        (3, [2]),
        (4, [2]),
        (5, [2, 3]),
        (12, [2, 3, 6]),
        (30, [4, 8, 15]),
        (32, [4, 8, 16]),
        (80, [10, 20, 40]),
    ],
)
def test_candidates_are_an_eighth_a_quarter_and_half_of_the_layers(total: int, layers: list[int]) -> None:
    assert [edge.trained_layers for edge in depth.candidates(total)] == layers
    assert all(edge.total == total for edge in depth.candidates(total))


@pytest.mark.parametrize(
    ("length", "total", "word"),
    [
        (Length(7200, 1350, 450), 30, ""),
        (Length(200, 432, 13), 30, ""),
        (Length(199, 500, 13), 30, "199 rows are too few"),
        (Length(720, 431, 45), 30, "431 optimizer steps are too few"),
        (Length(720, 1350, 45), 4, "too few layers"),
    ],
)
def test_small_runs_hold_no_trials_and_say_why(length: Length, total: int, word: str) -> None:
    why = depth.against(length, depth.candidates(total))
    assert word in why
    assert bool(word) == bool(why)


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        (Length(200, 432, 9), 48),  # the fewest that say something
        (Length(7200, 1350, 450), 150),  # a fifth of what the largest candidate's run takes
        (Length(7200, 13500, 450), 450),  # an epoch at most
    ],
)
def test_trials_are_as_long_as_a_fifth_of_the_run_pays_for(length: Length, steps: int) -> None:
    assert depth.trial_steps(length, depth.candidates(30)) == steps


FEW, SOME, MANY = depth.candidates(30)


@pytest.mark.parametrize(
    ("losses", "wins"),
    [
        ({FEW: 1.00, SOME: 1.00, MANY: 1.00}, FEW),
        ({FEW: 1.10, SOME: 1.02, MANY: 1.00}, FEW),  # 95 % of the gain
        ({FEW: 1.11, SOME: 1.09, MANY: 1.00}, SOME),
        ({FEW: 1.50, SOME: 1.20, MANY: 1.00}, MANY),
        ({FEW: 1.00, SOME: 1.20, MANY: 2.90}, FEW),
        ({SOME: 1.50, MANY: 1.00}, MANY),  # one diverged
        ({FEW: 3.10, SOME: 3.00, MANY: 3.20}, None),  # nothing was gained
        ({}, None),
    ],
)
def test_the_fewest_layers_win_that_keep_nearly_all_of_the_gain(
    losses: dict[Boundary, float], wins: Boundary | None
) -> None:
    assert depth.chosen(3.0, losses) == wins
    rows = depth.evidence((FEW, SOME, MANY), 12, 3.0, losses)
    assert [row.chosen for row in rows] == [edge == wins for edge in (FEW, SOME, MANY)]


def test_the_evidence_has_shares_and_costs() -> None:
    rows = depth.evidence((FEW, SOME, MANY), 12, 3.0, {FEW: 2.0, MANY: 1.0})
    assert [(row.layers, row.loss, row.gain_share) for row in rows] == [(4, 2.0, 0.5), (8, None, 0.0), (15, 1.0, 1.0)]
    assert [row.relative_cost for row in rows] == [1.0, 2.0, 3.75]
    assert {row.steps for row in rows} == {12}
