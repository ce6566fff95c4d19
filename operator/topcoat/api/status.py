"""`status` of a FineTuneJob: what is. Written by the planner, once per step; strings are ready to be shown.

Scores are decimal strings, as the API has no floats.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from topcoat.api.conditions import Condition, Phase
from topcoat.api.exits import Category
from topcoat.api.field import Digest, Time, Version
from topcoat.api.promotion import Verdict
from topcoat.api.section import Lenient

Shown = Annotated[str, StringConstraints(max_length=253)]
Message = Annotated[str, StringConstraints(max_length=1024)]
Score = Annotated[str, StringConstraints(pattern=r"^-?[0-9]{1,9}(\.[0-9]{1,12})?$", max_length=28)]
_MAP_BY_TYPE = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
_MAP_BY_VERSION = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["version"]}


class ConditionStatus(Lenient):
    """One condition, as Kubernetes has them."""

    type: Condition
    """Kind of condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$", max_length=128)]
    """One word; the reference lists them."""
    message: Message = ""
    """The same in a sentence."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of the manifest that it speaks of."""
    last_transition_time: Time
    """When `status` last changed."""


class RunStatus(Lenient):
    """The current or last run."""

    number: Annotated[int, Field(ge=1)]
    """Number; never used twice."""
    trigger: Shown = ""
    """Why it started: Created, DatasetChanged, BaseModelChanged, MethodChanged, TrainingChanged, Requested …"""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Number of the attempt."""
    job_name: Shown = ""
    """The child Job."""
    start_time: Time | None = None
    """When it started."""
    completion_time: Time | None = None
    """When it ended, in whatever way."""
    resumed_from_step: Annotated[int, Field(ge=0)] | None = None
    """Step of the checkpoint that the attempt went on from."""
    input_hash: Shown = ""
    """Hash of the resolved inputs; the same hash never trains twice."""
    profile: Shown = ""
    """Name and digest of the profile that the run goes by, as it was when the run started."""
    input_parts: Annotated[dict[str, Annotated[str, StringConstraints(max_length=128)]], Field(max_length=8)] = {}
    """Hash of each part of the inputs; tells what changed."""


class ProgressStatus(Lenient):
    """How far the run is."""

    stage: Shown = ""
    """What the trainer does now."""
    percent: Shown = ""
    """For people, as `45%`."""
    eta: Shown = ""
    """For people, as `3m10s`."""
    progress_percentage: Annotated[int, Field(ge=0, le=100)] | None = None
    """0 to 100."""
    estimated_remaining_seconds: Annotated[int, Field(ge=0)] | None = None
    """Time to go, in seconds."""
    current_step: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps done."""
    total_steps: Annotated[int, Field(ge=0)] | None = None
    """Optimizer steps in all."""
    tokens_per_second: Shown | None = None
    """Training tokens per second."""
    loss: Shown | None = None
    """Training loss, latest."""
    seconds_per_step: Shown | None = None
    """Measured time of an optimizer step."""
    peak_memory: Shown | None = None
    """Most memory held so far; of the GPU where there is one."""
    last_updated_time: Time | None = None
    """When the trainer last reported."""


class EstimateStatus(Lenient):
    """What a run will need, before it starts. What cannot be known is left out or called unknown."""

    memory: Shown = ""
    """Peak memory of a trainer process."""
    gpu_memory: Shown = ""
    """Peak memory of one GPU."""
    disk: Shown = ""
    """What the run writes."""
    duration_seconds: Annotated[int, Field(ge=0)] | None = None
    """Wall time, in seconds; left out where the speed of the device is not known."""
    gpu_hours: Shown = ""
    """GPU hours; `unknown` where GPUs are asked for whose speed is not known, empty without GPUs."""
    operations: Shown = ""
    """Floating-point operations of all stages, as `3.2e+14`."""
    stages: Annotated[dict[str, Annotated[str, StringConstraints(max_length=64)]], Field(max_length=8)] = {}
    """Wall time of each stage for people, as `1m10s`; operations where the speed of the device is not known."""
    device: Shown = ""
    """What the times are for."""


class PreparedStatus(Lenient):
    """The last check of data set and base model. Remembered here, so that nothing is checked again after a restart."""

    key: Shown = ""
    """Hash of all in the manifest that the check depends on."""
    finished_at: Time | None = None
    """When it ended."""
    exit_code: Annotated[int, Field(ge=0, le=255)] = 0
    """How it ended: 0, or one of the exit codes."""
    failures: Annotated[int, Field(ge=0)] = 0
    """Failures in a row."""


class DatasetStatus(Lenient):
    """What the check of the data set found."""

    digest: Shown = ""
    """SHA-256 over the files."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Rows to learn from."""
    invalid: Annotated[int, Field(ge=0)] = 0
    """Rows left out as unusable."""
    tokens: Annotated[int, Field(ge=0)] = 0
    """Tokens of the training rows."""
    holdout_samples: Annotated[int, Field(ge=0)] = 0
    """Rows held out."""


class BaseModelStatus(Lenient):
    """The base model as found."""

    resolved_revision: Shown = ""
    """Pinned revision."""
    digest: Shown = ""
    """SHA-256 over its files."""
    id: Shown = ""
    """Name that servers use."""
    path: Annotated[str, StringConstraints(max_length=1024)] = ""
    """Folder on the volume."""


class VersionState(StrEnum):
    """What a version is now."""

    CANDIDATE = "Candidate"
    PROMOTED = "Promoted"
    PREVIOUS = "Previous"
    REJECTED = "Rejected"
    RETIRED = "Retired"


class VersionStatus(Lenient):
    """One sealed version."""

    version: Version
    """Name: v and the number of its run."""
    path: Annotated[str, StringConstraints(max_length=1024)] = ""
    """Folder on the volume."""
    digest: Digest
    """SHA-256 of its manifest.json."""
    state: VersionState = VersionState.CANDIDATE
    """What it is now."""
    score: Shown = ""
    """Its score of the first measure."""
    verdict: Verdict | None = None
    """The gate's answer."""
    input_hash: Shown = ""
    """Hash of the inputs that it was trained on."""


class EvaluationStatus(Lenient):
    """The last verdict and its evidence."""

    metric: Shown = ""
    """Measure of the scores."""
    base: Score = "0"
    """Base model."""
    serving: Score | None = None
    """Version that served."""
    candidate: Score = "0"
    """Candidate."""
    delta: Score = "0"
    """Improvement over the base model; positive is better."""
    lower_bound: Score = "0"
    """Lower bound of the improvement at the requirement's confidence."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Held-out rows."""
    verdict: Verdict
    """The gate's answer."""
    score: Shown = ""
    """For people, as `0.39 → 0.82`."""
    reasons: Annotated[tuple[Message, ...], Field(max_length=16)] = ()
    """Why, in sentences."""


class RolloutState(StrEnum):
    """How a canary stands."""

    PROGRESSING = "Progressing"
    HELD = "Held"
    DONE = "Done"
    ROLLED_BACK = "RolledBack"


class RolloutStatus(Lenient):
    """The canary that goes on, or the last one."""

    version: Version
    """The version that is tried."""
    previous: Version
    """The version that answered before."""
    state: RolloutState = RolloutState.PROGRESSING
    """How it stands."""
    step: Annotated[int, Field(ge=0, le=10)] = 0
    """Steps that are behind it."""
    step_time: Time | None = None
    """When the present step began."""
    samples: Annotated[int, Field(ge=0)] = 0
    """Requests that the new version had answered before this step."""
    message: Message = ""
    """What the traffic shows."""


class Endpoint(Lenient):
    """Where clients find the model."""

    url: Shown = ""
    """Base address of the OpenAI-style API."""
    model_name: Shown = ""
    """The alias to ask for."""


class Failure(Lenient):
    """Why the last run failed."""

    category: Category
    """Who or what it is about."""
    message: Message = ""
    """What happened, without any row's text."""
    hint: Message = ""
    """How to mend it."""


class FineTuneJobStatus(Lenient):
    """What is. Every field is written by the operator (in local mode, by `topcoat run`)."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """Generation of the manifest that this status speaks of."""
    phase: Phase = Phase.PENDING
    """One word for people."""
    conditions: Annotated[tuple[ConditionStatus, ...], Field(max_length=16, json_schema_extra=_MAP_BY_TYPE)] = ()
    """Ready, Reconciling and Stalled (kstatus), and one per stage."""
    run: RunStatus | None = None
    """The current or last run."""
    progress: ProgressStatus | None = None
    """How far the run is."""
    prepared: PreparedStatus | None = None
    """The last check of data set and base model."""
    next_schedule_time: Time | None = None
    """When retrain.schedule has the sources looked at next."""
    estimate: EstimateStatus | None = None
    """What a run will need."""
    dataset: DatasetStatus | None = None
    """What the check of the data set found."""
    base_model: BaseModelStatus | None = None
    """The base model as found."""
    versions: Annotated[tuple[VersionStatus, ...], Field(max_length=128, json_schema_extra=_MAP_BY_VERSION)] = ()
    """Sealed versions, oldest first."""
    evaluation: EvaluationStatus | None = None
    """The last verdict and its evidence."""
    promoted_version: Version | None = None
    """The version that won last, or that a person chose."""
    approved_version: Version | None = None
    """The approval that was carried out last: promotion.approvedVersion counts once, when it changes."""
    previous_version: Version | None = None
    """The version promoted before it; the target of a rollback."""
    served_version: Version | None = None
    """The version that the alias points to."""
    canary_weight: Annotated[int, Field(ge=0, le=100)] | None = None
    """Per cent of the traffic on the new version, during a canary."""
    rollout: RolloutStatus | None = None
    """The canary that goes on, or the last one."""
    endpoint: Endpoint | None = None
    """Where clients find the model."""
    failure: Failure | None = None
    """Why the last run failed."""
