"""Successive halving (Jamieson and Talwalkar 2016): at which steps which share of the trials goes on. Pure arithmetic.

From rung to rung the steps double while the number of trials halves, so each rung costs about half a training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from topcoat.api.training import Sweep

# Most that all trials together may train, in whole trainings of one of them: eight trials' 2.5, and the rounding.
MOST_TRAININGS = 2.6


@dataclass(frozen=True, slots=True)
class Rung:
    """At this step the trials are compared, and so many of them go on."""

    step: int
    kept: int


def rungs(trials: int, steps: int) -> tuple[Rung, ...]:
    """The rungs of so many trials, each of which would train so many steps. One trial has none: it simply trains."""
    count = math.ceil(math.log2(trials)) if trials > 1 else 0
    # Many trials are compared earlier instead of costing more.
    for last in range(1, 1 + steps.bit_length()):
        found = _rungs(trials, steps, count, last)
        if trainings(found, trials, steps) <= MOST_TRAININGS:
            return found
    return found if trials > 1 else ()


def _rungs(trials: int, steps: int, count: int, last: int) -> tuple[Rung, ...]:
    """The last comparison after 1/2^last of the steps, each one before it after half as many."""
    found: dict[int, int] = {}
    kept = trials
    for place in range(count):
        kept = -(-kept // 2)
        step = max(1, round(steps / 2 ** (last + count - 1 - place)))
        found[min(step, steps)] = kept
    return tuple(Rung(step, kept) for step, kept in found.items())


def trainings(found: tuple[Rung, ...], trials: int, steps: int) -> float:
    """What the whole costs, in trainings of one trial."""
    cost, alive, before = 0, trials, 0
    for rung in (*found, Rung(steps, 1)):
        cost += alive * (rung.step - before)
        alive, before = rung.kept, rung.step
    return cost / steps


def passes(sweep: Sweep | None, steps: int) -> float:
    """What a run of so many steps trains with these trials, in trainings without."""
    trials = sweep.trials if sweep else 1
    return trainings(rungs(trials, steps), trials, steps) if steps else 1.0


def best(losses: Mapping[int, float], prices: Mapping[int, float]) -> list[int]:
    """The trials, best first: lower loss, then lower price, then earlier in the manifest."""
    return sorted(losses, key=lambda trial: (losses[trial], prices[trial], trial))
