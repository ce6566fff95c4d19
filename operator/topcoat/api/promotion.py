"""`promotion`: the gate. When a candidate replaces what serves today."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from topcoat.api.evaluation import MetricName
from topcoat.api.field import Confidence, Decimal, Version
from topcoat.api.section import Rule, Section


class Policy(StrEnum):
    """Who promotes a winner."""

    AUTOMATIC = "Automatic"
    MANUAL = "Manual"
    NEVER = "Never"


class Against(StrEnum):
    """What the candidate is compared with."""

    BASE = "Base"
    SERVING = "Serving"


class Verdict(StrEnum):
    """The gate's answer."""

    PROMOTE = "Promote"
    REJECT = "Reject"
    INCONCLUSIVE = "Inconclusive"


class Requirement(Section):
    """One condition of promotion, judged with a paired bootstrap over the held-out rows."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!(has(self.minImprovement) && has(self.maxRegression))",
            lambda m: m.min_improvement is None or m.max_regression is None,
            "set only one of minImprovement and maxRegression",
        ),
    )

    metric: MetricName
    """What is compared."""
    against: Against = Against.BASE
    """Compared with the base model, or with the version that serves (the base model while none serves)."""
    min_improvement: Decimal | None = None
    """The lower bound of the improvement must be above this, in the metric's own unit. Default 0."""
    max_regression: Decimal | None = None
    """Instead: the candidate may be worse by this much, but surely not by more."""
    confidence: Confidence = "0.95"
    """One-sided confidence of the bound."""
    min_samples: Annotated[int, Field(ge=10, le=100_000)] = 50
    """With fewer held-out rows the verdict is Inconclusive."""


class Promotion(Section):
    """The gate."""

    policy: Policy = Policy.AUTOMATIC
    """`Automatic`: a winner serves. `Manual`: a winner waits for approvedVersion. `Never`: keep all, serve none."""
    requirements: Annotated[tuple[Requirement, ...], Field(max_length=8)] = ()
    """All must hold. Empty: the first metric must be better than the base model's and than the serving version's, and
    the loss not worse than the base model's by more than 0.05."""
    approved_version: Version | None = None
    """With policy Manual: the version that a person approved. A commit is an approval."""
