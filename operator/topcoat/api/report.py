"""All that the trainer says back: what prepare found, the evaluation, a version's manifest, the last word.

Numbers here are JSON numbers: these are files on the volume, not API objects. Unknown fields are ignored, so that
a newer reader understands an older file.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from topcoat.api.exits import Category
from topcoat.api.lineage import Lineage
from topcoat.api.prepared import BaseModelCard, DataCard, Estimate, PrepareReport, TaskKind
from topcoat.api.promotion import Verdict
from topcoat.api.section import Lenient
from topcoat.api.trial import LayerTrial, SweepTrial

# What prepare found is part of what the trainer says back: readers find it here, too.
__all__ = [
    "AnswerPair",
    "BaseModelCard",
    "Comparison",
    "Confusion",
    "CurvePoint",
    "DataCard",
    "Estimate",
    "EstimateCheck",
    "EvaluationReport",
    "EvaluationSummary",
    "FileSeal",
    "LayerTrial",
    "Lineage",
    "Outcome",
    "PrepareReport",
    "Probe",
    "Progress",
    "ProgressMetric",
    "Score",
    "StageCost",
    "SweepTrial",
    "TaskKind",
    "Termination",
    "Unit",
    "VersionManifest",
    "VersionNote",
]


class Score(Lenient):
    """One row of the score table: one subject, one measure."""

    subject: str
    """`base`, `base constrained`, `prompt`, `retrieval`, `classifier`, `serving`, `candidate` and the like."""
    metric: str
    """Measure (`Accuracy`, `Loss` …)."""
    value: float
    """The score."""
    lower: float
    """Lower end of the 95 % interval."""
    upper: float
    """Upper end of the 95 % interval."""
    samples: int
    """Rows scored."""
    prompt_tokens: float | None = None
    """Prompt tokens per answer, mean."""
    seconds_per_answer: float | None = None
    """CPU seconds (GPU: wall seconds) per answer, mean."""
    note: str = ""
    """How it was scored, or why a part is missing."""


class Comparison(Lenient):
    """One requirement of the gate and what came of it."""

    metric: str
    """What was compared."""
    against: str
    """`base` or `serving`."""
    delta: float
    """Improvement of the candidate, positive is better."""
    lower: float
    """Lower one-sided bound of the improvement."""
    upper: float
    """Upper one-sided bound of the improvement."""
    needed: float
    """The lower bound must be above this."""
    confidence: float
    """Confidence of each bound."""
    samples: int
    """Paired rows."""
    verdict: Verdict
    """What this requirement alone says."""
    sentence: str
    """The same in words."""


class AnswerPair(Lenient):
    """One held-out row, and what two subjects answered."""

    row: int
    """Row in its file."""
    prompt: str
    """What was asked (without a shared system prompt)."""
    expected: str
    """The right answer."""
    before: str
    """The base model's answer."""
    after: str
    """The candidate's answer."""
    gain: float
    """How much better the candidate's answer is."""


class Confusion(Lenient):
    """Confusion matrix of the candidate."""

    labels: list[str]
    """Labels, in the order of rows and columns."""
    counts: list[list[int]]
    """counts[expected][answered]."""


class CurvePoint(Lenient):
    """One point of the learning curve."""

    step: int
    """Optimizer step."""
    epoch: float
    """Epochs done."""
    loss: float | None = None
    """Training loss, mean per trained token."""
    holdout_loss: float | None = None
    """Held-out loss, mean per trained token."""
    learning_rate: float | None = None
    """Learning rate of the step."""


class StageCost(Lenient):
    """What one stage used."""

    stage: str
    """Name of the stage."""
    seconds: float
    """Wall seconds."""
    cpu_seconds: float
    """CPU seconds."""
    gpu_seconds: float = 0.0
    """GPU seconds."""


class Unit(StrEnum):
    """What a number of an estimate counts."""

    SECONDS = "Seconds"
    BYTES = "Bytes"
    HOURS = "Hours"


class EstimateCheck(Lenient):
    """One line of what was estimated before the run and measured in it."""

    part: str
    """A stage, `All stages`, `Peak memory`, `Peak GPU memory` or `GPU hours`."""
    unit: Unit
    """What both numbers count."""
    estimated: float | None = None
    """Before the run; nothing where it could not be known."""
    measured: float | None = None
    """In the run, all its attempts together; nothing where it did not happen."""
    ratio: float | None = None
    """measured over estimated."""


class EvaluationReport(Lenient):
    """evaluation.json: the evidence behind a verdict, and all that the HTML report shows."""

    verdict: Verdict
    """The gate's answer."""
    rule: str
    """The rule it followed, in words."""
    reasons: list[str]
    """Why, in sentences with numbers."""
    metric: str
    """The first measure: the one in status."""
    base: float
    """The base model's score of the first measure (constrained to the labels, for classification)."""
    serving: float | None = None
    """The serving version's score."""
    serving_version: str | None = None
    """Which version that is."""
    candidate: float
    """The candidate's score."""
    delta: float
    """candidate minus base, positive is better."""
    lower_bound: float
    """Lower one-sided bound of delta."""
    samples: int
    """Held-out rows scored."""
    scores: list[Score]
    """The score table."""
    comparisons: list[Comparison]
    """The requirements, one by one."""
    guards: list[Comparison] = []
    """The guards, one by one."""
    wins: list[AnswerPair] = []
    """Rows where the candidate is better than the base model (up to 20)."""
    losses: list[AnswerPair] = []
    """Rows where it is worse (up to 20)."""
    confusion: Confusion | None = None
    """For classification."""
    curve: list[CurvePoint] = []
    """The learning curve."""
    costs: list[StageCost] = []
    """What each stage used."""
    estimate_checks: list[EstimateCheck] = []
    """What was estimated before the run, beside what was measured."""
    cache_note: str = ""
    """What the activation cache did."""
    layer_trials: list[LayerTrial] = []
    """What `layers: Auto` chose among, fewest layers first."""
    sweep_trials: list[SweepTrial] = []
    """What `training.sweep` chose among, in the manifest's order."""
    dataset: DataCard
    """The data set."""
    base_model: BaseModelCard
    """The base model."""
    lineage: Lineage
    """Where the version comes from."""
    holdout_uses: int = 1
    """How many candidates were judged on these held-out rows so far, this one included."""


class FileSeal(Lenient):
    """Size and digest of one file."""

    bytes: int
    """Size."""
    sha256: str
    """Digest, hex."""


class Probe(Lenient):
    """A golden prompt and what the exported artifact answers to it."""

    prompt_ids: list[int]
    """Token ids of the prompt."""
    token_ids: list[int]
    """Likeliest next tokens."""
    log_probabilities: list[float]
    """Their log-probabilities, fp32."""


class VersionManifest(Lenient):
    """manifest.json, written last: what makes a folder a sealed version."""

    format_version: int = 1
    """Version of this format."""
    version: str
    """Name of the version."""
    files: dict[str, FileSeal]
    """Every other file of the folder."""
    kind: str
    """`lora` or `tail`."""
    base_model: BaseModelCard
    """The base model."""
    dataset_digest: str
    """Digest of the data set."""
    input_hash: str
    """Hash of the run's resolved inputs."""
    task: TaskKind
    """What the rows ask for."""
    labels: list[str] = []
    """Labels, for classification."""
    system_prompt: str | None = None
    """System message that all training rows share."""
    lineage: Lineage
    """Where the version comes from."""
    verdict: Verdict
    """The gate's answer when the version was judged."""
    tensors: int
    """Number of tensors; all finite, not all zero."""
    probes: list[Probe]
    """Golden prompts."""


class Outcome(StrEnum):
    """How a trainer process ended."""

    SEALED = "Sealed"
    PREPARED = "Prepared"
    INSPECTED = "Inspected"
    DISCARDED = "Discarded"
    FAILED = "Failed"


class EvaluationSummary(Lenient):
    """The verdict's numbers, short enough for a termination message and for status."""

    metric: str
    base: float
    serving: float | None = None
    candidate: float
    delta: float
    lower_bound: float
    samples: int
    verdict: Verdict
    reasons: list[str] = []


class VersionNote(Lenient):
    """A sealed version on the volume, in a line. Its manifest was read, its other files were not."""

    version: str
    """Its name."""
    digest: str
    """SHA-256 of its manifest.json."""
    input_hash: str
    """Hash of its run's resolved inputs."""
    verdict: Verdict
    """The gate's answer when it was judged."""


class Termination(Lenient):
    """The last word of a trainer process, 4 KiB at most."""

    outcome: Outcome
    """How it ended. `Inspected`: the other fields say what the volume holds of the attempt, if anything."""
    attempt: int | None = None
    """Number of the attempt that it is about."""
    exit_code: int = 0
    """Exit code, as in the table of exit codes."""
    version: str | None = None
    """The sealed version."""
    digest: str | None = None
    """SHA-256 of its manifest.json."""
    input_hash: str | None = None
    """Hash of its run's resolved inputs."""
    evaluation: EvaluationSummary | None = None
    """The verdict's numbers."""
    category: Category | None = None
    """Kind of failure."""
    reason: str | None = None
    """Condition reason of the failure."""
    message: Annotated[str, Field(max_length=1024)] = ""
    """What happened, without any row's text."""
    hint: Annotated[str, Field(max_length=512)] = ""
    """How to mend it."""
    resumed_from_step: int | None = None
    """Step of the checkpoint that the attempt started from."""
    prepared: PrepareReport | None = None
    """What prepare found, without labels and system prompt: these are the tenant's own."""
    versions: list[VersionNote] | None = None
    """Sealed versions on the volume, newest first, as many as fit."""


class ProgressMetric(Lenient):
    """One measure, as Kubeflow's trainer protocol has it."""

    name: str
    value: str


class Progress(Lenient):
    """progress.json, and what is posted to the operator: Kubeflow's `trainerStatus` and a few numbers more."""

    stage: str = ""
    """What the trainer does now."""
    progress_percentage: int = 0
    """0 to 100, of the whole run."""
    estimated_remaining_seconds: int | None = None
    """Time to go."""
    metrics: list[ProgressMetric] = []
    """Loss and the like."""
    last_updated_time: str = ""
    """RFC 3339, UTC."""
    current_step: int = 0
    """Optimizer steps done."""
    total_steps: int = 0
    """Optimizer steps in all."""
    tokens_per_second: float = 0.0
    """Training tokens per second."""
    seconds_per_step: float | None = None
    """Measured time of an optimizer step, mean of this attempt."""
    peak_memory_bytes: int | None = None
    """Most memory held so far; of the GPU where there is one."""
