"""`dataset`: the company's rows, how they are read, and which of them are held out to judge the result."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from topcoat.api.base_model import SecretReference, _climbs
from topcoat.api.field import BelowOne, Column, Decimal, Fraction, Name, Seed, ShortText, Uri
from topcoat.api.section import Rule, Section


class Format(StrEnum):
    """Shape of a row."""

    AUTO = "Auto"
    CHAT = "Chat"
    PROMPT_COMPLETION = "PromptCompletion"
    INSTRUCTION = "Instruction"
    TEXT = "Text"
    CLASSIFICATION = "Classification"


class OnTooLong(StrEnum):
    """What happens to a row longer than training.maxSequenceLength."""

    FAIL = "Fail"
    TRUNCATE = "Truncate"
    DROP = "Drop"


class ConfigMapKey(Section):
    """One key of a ConfigMap of the same namespace. For small data sets (up to 1 MiB)."""

    name: ShortText
    """Name of the ConfigMap."""
    key: ShortText
    """Key in it; its ending (.jsonl, .json, .csv) gives the file type."""


class DataSource(Section):
    """Where rows lie: JSONL, JSON, CSV or Parquet."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "has(self.uri) != has(self.configMap)",
            lambda m: (m.uri is None) != (m.config_map is None),
            "set exactly one of uri and configMap",
        ),
        Rule(
            r"!has(self.uri) || !self.uri.matches('(^|[/:])[.][.](/|$)')",
            lambda m: not _climbs(m.uri),
            "uri must not contain '..'",
            "uri",
        ),
        Rule(
            "!has(self.secretRef) || has(self.uri)",
            lambda m: m.secret_ref is None or m.uri is not None,
            "secretRef needs a uri",
        ),
    )

    uri: Uri | None = None
    """`pvc://claim/path`, `hf://org/name`, `s3://bucket/path`, or, in local mode only, `file://path` (relative
    paths start at the manifest)."""
    config_map: ConfigMapKey | None = None
    """A ConfigMap of the same namespace."""
    secret_ref: SecretReference | None = None
    """Secret with the credentials of the source."""


class Holdout(Section):
    """Rows set aside for judging when `evaluation` is absent. Never trained on; never empty.

    The same row always falls on the same side, also when rows are added later.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.minSamples <= self.maxSamples",
            lambda m: m.min_samples <= m.max_samples,
            "holdout.minSamples must not be above holdout.maxSamples",
        ),
        Rule(
            "double(self.fraction) > 0.0 && double(self.fraction) <= 0.5",
            lambda m: 0.0 < float(m.fraction) <= 0.5,
            "holdout.fraction must be above 0 and at most 0.5",
            "fraction",
        ),
    )

    fraction: BelowOne = "0.1"
    """Share of the rows (or groups) to hold out; above 0, at most 0.5."""
    min_samples: Annotated[int, Field(ge=10, le=100_000)] = 50
    """Held-out rows needed at least; more are taken from small data sets to reach it."""
    max_samples: Annotated[int, Field(ge=10, le=100_000)] = 500
    """Held-out rows scored at most."""
    group_by: Column | None = None
    """A column whose equal values stay on one side (customer, claim, code family)."""
    seed: Seed = 0
    """Chooses another split."""


class Columns(Section):
    """Which column holds what, where the names are not the usual ones."""

    messages: Column | None = None
    """List of turns (`messages`, ShareGPT's `conversations`)."""
    prompt: Column | None = None
    """The question or input."""
    completion: Column | None = None
    """The answer."""
    instruction: Column | None = None
    """Alpaca's instruction."""
    input: Column | None = None
    """Alpaca's input."""
    output: Column | None = None
    """Alpaca's output."""
    text: Column | None = None
    """Plain text, or the text to classify."""
    label: Column | None = None
    """The class of the text."""


class Validation(Section):
    """How strict the check of the rows is. It runs on a CPU, before anything expensive."""

    max_invalid_fraction: Fraction = "0"
    """Share of rows that may be unusable (they are left out and counted). 0: every row must be right."""
    on_too_long: OnTooLong = OnTooLong.FAIL
    """Rows longer than training.maxSequenceLength fail the run; or the longest turn of the prompt is shortened and the
    answer kept (plain text loses its end); or they are left out."""


class GuardMetric(StrEnum):
    """What a guard measures."""

    LOSS = "Loss"
    EXACT_MATCH = "ExactMatch"
    ACCURACY = "Accuracy"
    F1 = "F1"
    ROUGE_L = "RougeL"


class Guard(Section):
    """A forgetting suite: rows on which the candidate may not get worse than the base model."""

    name: Name
    """Name of the guard, unique in the list."""
    source: DataSource
    """Its rows."""
    metric: GuardMetric = GuardMetric.LOSS
    """What is compared."""
    max_regression: Decimal = "0.02"
    """How much worse the candidate may be, in the metric's own unit."""


class Dataset(Section):
    """The rows to learn from and the rows to be judged on."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.guards.all(guard, self.guards.exists_one(other, other.name == guard.name))",
            lambda m: len({guard.name for guard in m.guards}) == len(m.guards),
            "the names of guards must differ",
            "guards",
        ),
    )

    train: DataSource
    """Training rows."""
    evaluation: DataSource | None = None
    """Your own held-out rows. Without them, `holdout` sets rows of `train` aside."""
    holdout: Holdout = Holdout()
    """How rows are held out when `evaluation` is absent."""
    format: Format = Format.AUTO
    """Shape of the rows. `Auto` recognises the words of OpenAI, TRL, Alpaca and ShareGPT."""
    columns: Columns = Columns()
    """Names of the columns, where they are unusual."""
    validation: Validation = Validation()
    """How strict the check of the rows is."""
    guards: Annotated[
        tuple[Guard, ...],
        Field(
            max_length=8, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
        ),
    ] = ()
    """Suites on which the candidate may not get worse."""
