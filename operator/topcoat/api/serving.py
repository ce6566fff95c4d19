"""`serving`: where clients find the tuned model, and how traffic moves from version to version."""

from __future__ import annotations

import itertools
from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from topcoat.api import names
from topcoat.api.base_model import SecretReference
from topcoat.api.field import Decimal, Fraction, Name, Seconds, Version
from topcoat.api.lifecycle import Resources
from topcoat.api.section import Rule, Section


class Mode(StrEnum):
    """Kind of server."""

    SHARED = "Shared"
    DEDICATED = "Dedicated"
    NONE = "None"


class Engine(StrEnum):
    """Inference engine."""

    AUTO = "Auto"
    VLLM = "VLLM"
    TRANSFORMERS = "Transformers"


class RolloutType(StrEnum):
    """How traffic moves."""

    IMMEDIATE = "Immediate"
    CANARY = "Canary"


class Step(Section):
    """One step of a canary."""

    weight: Annotated[int, Field(ge=1, le=100)]
    """Per cent of the traffic that goes to the new version."""
    pause_seconds: Seconds | None = None
    """How long to stay at this step."""


class Analysis(Section):
    """What the new version must keep to during a canary."""

    max_error_rate: Fraction = "0.01"
    """Share of failed requests at most."""
    max_latency_ratio: Decimal = "1.5"
    """Latency (p95) at most, relative to the previous version."""
    max_empty_rate: Fraction = "0.05"
    """Share of empty or endlessly repeating answers at most, beyond the previous version's share."""
    min_samples: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """Answers of the new version that each step needs, and of the previous one since the canary began."""


def _rising(weights: list[int]) -> bool:
    return all(left < right for left, right in itertools.pairwise(weights))


class Rollout(Section):
    """How traffic moves to a promoted version."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.type == 'Canary' ? size(self.steps) > 0 : size(self.steps) == 0",
            lambda m: (m.type == RolloutType.CANARY) == bool(m.steps),
            "rollout.steps belong to type Canary, which needs at least one",
            "steps",
        ),
        Rule(
            "self.steps.all(s, self.steps.exists_one(t, t.weight == s.weight))"
            " && (size(self.steps) < 2 || self.steps.map(s, s.weight).isSorted())",
            lambda m: _rising([step.weight for step in m.steps]),
            "rollout.steps must have rising weights",
            "steps",
        ),
    )

    type: RolloutType = RolloutType.IMMEDIATE
    """All at once, or in steps."""
    steps: Annotated[tuple[Step, ...], Field(max_length=10)] = ()
    """Steps of a canary, with rising weights; 100 per cent follows the last one."""
    bake_seconds: Seconds | None = None
    """How long the new version is watched after it answers everything; absent: not at all."""
    analysis: Analysis = Analysis()
    """What the new version must keep to."""
    auto_rollback: bool = True
    """Go back to the previous version when the analysis fails."""


class Authentication(Section):
    """Who may call the model."""

    secret_ref: SecretReference
    """Secret with the bearer token (key `token`)."""


class Serving(Section):
    """The endpoint."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.mode != 'None' || !has(self.pinnedVersion)",
            lambda m: m.mode != Mode.NONE or m.pinned_version is None,
            "serving.pinnedVersion needs a serving.mode other than None",
            "pinned_version",
        ),
        Rule(
            f"!has(self.modelName) || !self.modelName.matches('{names.LIKE_A_VERSION}')",
            lambda m: m.model_name is None or not names.is_like_a_version(m.model_name),
            "serving.modelName must not end in --v and a number: so end the model names of sealed versions",
            "model_name",
        ),
    )

    mode: Mode = Mode.SHARED
    """`Shared`: one server for all tuned versions of a base model. `Dedicated`: one for this job. `None`: no
    server."""
    model_name: Name | None = None
    """The alias that clients call; by default the FineTuneJob's name."""
    engine: Engine = Engine.AUTO
    """Inference engine; `Auto`: the profile's default, else `Transformers`. `VLLM` serves LoRA versions."""
    replicas: Annotated[int, Field(ge=0, le=100)] = 1
    """Server pods."""
    resources: Resources = Resources()
    """Requests and limits of a server pod, bounded by the profile."""
    rollout: Rollout = Rollout()
    """How traffic moves to a promoted version."""
    pinned_version: Version | None = None
    """Serve this sealed version, whatever the gate promotes later. Rolling back is a revert in Git."""
    authentication: Authentication | None = None
    """Bearer token for clients; without it the network policy alone decides."""
