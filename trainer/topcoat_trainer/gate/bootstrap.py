"""How sure a difference is: a paired bootstrap over groups. Seeded and vectorised; knows no model and no rule.

Rows of one group (one patient, one code family) resemble each other, so whole groups are drawn, not rows. Every
statistic is a function of sums over rows, so one matrix product serves all resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 4000
BLOCK_CELLS = 8_000_000

Array = npt.NDArray[np.float64]
Finish = Callable[[Array], Array]


def mean(sums: Array) -> Array:
    """Columns: sum, count."""
    means: Array = sums[..., 0] / sums[..., 1]
    return means


def mean_exponential(sums: Array) -> Array:
    """Perplexity of a mean loss. Columns: sum, count."""
    return np.exp(np.minimum(mean(sums), 700.0))


def macro_f1(sums: Array) -> Array:
    """Columns: for each label right, said, were. Labels that a resample lacks are left out of its mean."""
    right, said, were = sums[..., 0::3], sums[..., 1::3], sums[..., 2::3]
    weight = said + were
    present = weight > 0
    scores = np.where(present, 2 * right / np.where(present, weight, 1), 0.0)
    found: Array = scores.sum(axis=-1) / np.maximum(present.sum(axis=-1), 1)
    return found


@dataclass(frozen=True, slots=True)
class Sample:
    """What one subject did, row by row: `sums` are added up over rows, `finish` makes the statistic."""

    sums: Array
    finish: Finish = mean

    def value(self) -> float:
        return float(self.finish(self.sums.sum(axis=0)))


def of_values(values: Sequence[float]) -> Sample:
    """Rows whose mean is the statistic."""
    column = np.asarray(values, dtype=np.float64)
    return Sample(np.stack([column, np.ones_like(column)], axis=1))


@dataclass(frozen=True, slots=True)
class Draw:
    """Which groups are drawn how often, the same for all subjects: that is what pairs them."""

    groups: npt.NDArray[np.intp]
    count: int
    seed: int
    resamples: int = RESAMPLES

    def statistics(self, sample: Sample) -> Array:
        """The statistic of every resample."""
        totals = np.zeros((self.count, sample.sums.shape[1]))
        np.add.at(totals, self.groups, sample.sums)
        chance = np.random.default_rng(self.seed)
        block = max(1, BLOCK_CELLS // max(self.count, 1))
        found = []
        for start in range(0, self.resamples, block):
            size = min(block, self.resamples - start)
            drawn = chance.integers(self.count, size=(size, self.count))
            drawn += np.arange(size)[:, None] * self.count
            weights = np.bincount(drawn.ravel(), minlength=size * self.count).reshape(size, self.count)
            found.append(sample.finish(weights.astype(np.float64) @ totals))
        return np.concatenate(found)


def draw(groups: Sequence[str | None], seed: int, resamples: int = RESAMPLES) -> Draw:
    """Rows without a group are a group each."""
    names = [f"g{group}" if group is not None else f"r{row}" for row, group in enumerate(groups)]
    places = {name: place for place, name in enumerate(dict.fromkeys(names))}
    return Draw(np.asarray([places[name] for name in names], dtype=np.intp), len(places), seed, resamples)


@dataclass(frozen=True, slots=True)
class Interval:
    """A value and its bounds."""

    value: float
    lower: float
    upper: float


def interval(sample: Sample, drawn: Draw, confidence: float = 0.95) -> Interval:
    """Two-sided percentile interval of one subject's score."""
    tail = (1 - confidence) / 2
    lower, upper = np.quantile(drawn.statistics(sample), [tail, 1 - tail])
    return Interval(sample.value(), float(lower), float(upper))


def improvement(candidate: Sample, other: Sample, drawn: Draw, confidence: float, *, lower_is_better: bool) -> Interval:
    """How much better the candidate is on the same rows; each bound holds with `confidence` on its own side."""
    sign = -1.0 if lower_is_better else 1.0
    differences = sign * (drawn.statistics(candidate) - drawn.statistics(other))
    lower, upper = np.quantile(differences, [1 - confidence, confidence])
    return Interval(sign * (candidate.value() - other.value()), float(lower), float(upper))
