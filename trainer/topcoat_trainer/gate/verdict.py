"""The rule of the gate: Promote, Reject or Inconclusive. Pure and total; knows bounds and limits, no rows.

A requirement says Promote when even the lower bound of the improvement is above what is needed; Reject when even the
upper bound is below zero (or below the regression it allows); Inconclusive otherwise and on too few rows. The whole
verdict is the worst of all. A guard only ever rejects, or holds while it is unsure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from topcoat.api.promotion import Verdict

# With fewer groups a bootstrap repeats the same few groups and its bounds mean little.
GROUPS_AT_LEAST = 10
ORDER = (Verdict.REJECT, Verdict.INCONCLUSIVE, Verdict.PROMOTE)


@dataclass(frozen=True, slots=True)
class Evidence:
    """An improvement (positive is better) with its one-sided bounds, and on how much it stands."""

    delta: float
    lower: float
    upper: float
    samples: int
    groups: int


@dataclass(frozen=True, slots=True)
class Limit:
    """`needed`: the lower bound must be above it. Negative: so much worse is allowed."""

    needed: float
    min_samples: int


def judged(evidence: Evidence, limit: Limit) -> Verdict:
    """What one requirement says."""
    bounds = (evidence.delta, evidence.lower, evidence.upper)
    if any(math.isnan(bound) for bound in bounds):
        return Verdict.INCONCLUSIVE
    if evidence.samples < limit.min_samples or evidence.groups < GROUPS_AT_LEAST:
        return Verdict.INCONCLUSIVE
    if evidence.upper < min(limit.needed, 0.0):
        return Verdict.REJECT
    return Verdict.PROMOTE if evidence.lower > limit.needed else Verdict.INCONCLUSIVE


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The verdict of all together. Nothing to judge is no reason to promote."""
    return min(verdicts, key=ORDER.index, default=Verdict.INCONCLUSIVE)
