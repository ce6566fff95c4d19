"""`evaluation`: what is measured on the held-out rows, and the cheaper ways that stand beside the tuned model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from topcoat.api.field import Decimal, Seed
from topcoat.api.section import Section


class Baseline(StrEnum):
    """A cheaper way to do the task."""

    CLASSIFIER = "Classifier"
    PROMPT = "Prompt"
    RETRIEVAL = "Retrieval"


class MetricName(StrEnum):
    """What is measured."""

    LOSS = "Loss"
    PERPLEXITY = "Perplexity"
    EXACT_MATCH = "ExactMatch"
    ACCURACY = "Accuracy"
    F1 = "F1"
    ROUGE_L = "RougeL"
    JSON_VALID = "JSONValid"


class Direction(StrEnum):
    """Which way is better."""

    HIGHER = "Higher"
    LOWER = "Lower"


DIRECTIONS: dict[MetricName, Direction] = {
    name: Direction.LOWER if name in (MetricName.LOSS, MetricName.PERPLEXITY) else Direction.HIGHER
    for name in MetricName
}


class Metric(Section):
    """One measure."""

    name: MetricName
    """Name of the measure."""
    direction: Direction | None = None
    """Which way is better. By default the measure's own: lower for Loss and Perplexity, higher for the rest."""
    weight: Decimal = "1"
    """Share in the combined score, where several measures are combined."""


class Generation(Section):
    """How answers are generated for scoring."""

    max_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    """Tokens per answer at most."""
    temperature: Decimal = "0"
    """0: always the likeliest token, so that scores repeat."""


class Evaluation(Section):
    """What is measured on the held-out rows."""

    baselines: Annotated[tuple[Baseline, ...], Field(max_length=3)] = (
        Baseline.CLASSIFIER,
        Baseline.PROMPT,
        Baseline.RETRIEVAL,
    )
    """Cheaper ways to stand beside the tuned model, where they apply. They inform; they do not decide."""
    metrics: Annotated[
        tuple[Metric, ...],
        Field(
            max_length=7, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = ()
    """Measures; the first one is shown in status. Empty: those that fit the data."""
    generation: Generation = Generation()
    """How answers are generated."""
    max_samples: Annotated[int, Field(ge=10, le=100_000)] | None = None
    """Held-out rows scored at most; by default all of them."""
    seed: Seed = 0
    """Seeds the bootstrap and the choice of examples."""
