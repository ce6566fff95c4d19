"""Which rows are held out: stable, whole groups, within bounds."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topcoat.api.dataset import Holdout
from topcoat_trainer.errors import DataError
from topcoat_trainer.example import Example
from topcoat_trainer.split import split


def rows(count: int, groups: int = 0, first: int = 0) -> list[Example]:
    made = []
    for number in range(first, first + count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        made.append(
            Example(number + 1, text=str(number), digest=digest, group=f"g{number % groups}" if groups else None)
        )
    return made


def holdout(**changes: object) -> Holdout:
    return Holdout.model_validate({"minSamples": 10, **changes})


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(20, 400),
    more=st.integers(0, 400),
    groups=st.sampled_from([0, 10, 37]),
    bounds=st.tuples(st.integers(10, 40), st.integers(40, 80)),
    seed=st.integers(0, 5),
)
def test_no_row_moves_to_the_held_out_side_when_rows_are_added(
    count: int, more: int, groups: int, bounds: tuple[int, int], seed: int
) -> None:
    smallest, largest = bounds
    by = {"groupBy": "g"} if groups else {}
    rule = holdout(minSamples=smallest, maxSamples=largest, seed=seed, **by)
    old, grown = rows(count, groups), rows(count + more, groups)
    try:
        first = split(old, rule)
    except DataError:
        return
    second = split(grown, rule)
    learnt = {old[index].digest for index in first.train}
    judged = {grown[index].digest for index in second.holdout}
    assert not learnt & judged
    assert sorted((*first.train, *first.holdout, *first.unused)) == list(range(count))
    assert smallest <= len(first.holdout) <= largest


@settings(max_examples=40, deadline=None)
@given(order=st.permutations(range(60)), groups=st.sampled_from([0, 12]))
def test_the_order_of_the_rows_changes_nothing(order: list[int], groups: int) -> None:
    rule = holdout(**({"groupBy": "g"} if groups else {}))
    straight = rows(60, groups)
    shuffled = [straight[index] for index in order]
    first, second = split(straight, rule), split(shuffled, rule)
    assert first.digest == second.digest
    assert {straight[i].digest for i in first.train} == {shuffled[i].digest for i in second.train}


def test_groups_never_straddle() -> None:
    made = rows(300, groups=20)
    parts = split(made, holdout(groupBy="g"))
    sides = [{made[index].group for index in side} for side in (parts.train, parts.holdout)]
    assert not sides[0] & sides[1]
    assert parts.groups == len(sides[1])


def test_a_large_group_is_scored_in_part_and_its_rest_is_not_trained_on() -> None:
    made = rows(400, groups=4)
    parts = split(made, holdout(groupBy="g", maxSamples=30))
    assert len(parts.holdout) == 30
    assert len(parts.unused) == 70
    assert not {made[i].group for i in parts.train} & {made[i].group for i in (*parts.holdout, *parts.unused)}


def test_another_seed_is_another_split_and_the_rule_says_so() -> None:
    made = rows(500)
    first, second = split(made, holdout()), split(made, holdout(seed=1))
    assert first.digest != second.digest
    assert "hash of the content (seed 1): 10%" in second.rule


def test_large_data_sets_hold_out_the_fraction() -> None:
    assert 250 < len(split(rows(3000), holdout()).holdout) < 350


def test_too_few_rows_or_groups_are_said_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"15 usable, distinct rows; holdout\.minSamples 10 would take more than half"):
        split(rows(15), holdout())
    with pytest.raises(DataError, match="all 40 rows have one group"):
        split(rows(40, groups=1), holdout(groupBy="g"))
    with pytest.raises(DataError, match="in 2 groups"):
        split([*rows(35, groups=1), *[Example(9, digest="x", group="other") for _ in range(3)]], holdout(groupBy="g"))
