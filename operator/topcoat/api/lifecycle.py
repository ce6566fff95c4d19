"""`lifecycle`, `trainer`, `budget`, `output`, `tracking`: how a run is carried out, bounded and kept."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from topcoat.api.base_model import SecretReference
from topcoat.api.field import Decimal, Name, Quantity, RelativePath, Seconds, ShortText
from topcoat.api.section import Rule, Section


class OnOutOfMemory(StrEnum):
    """What follows when memory runs out."""

    REDUCE_MICRO_BATCH = "ReduceMicroBatch"
    FAIL = "Fail"


class Checkpoint(Section):
    """Checkpoints of a run. A resumed run ends with the same weights as an unbroken one (on a CPU, bit for bit)."""

    interval_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """Optimizer steps between checkpoints."""
    keep: Annotated[int, Field(ge=1, le=100)] = 2
    """Checkpoints kept; an older one goes only after a newer one is complete."""


class Lifecycle(Section):
    """Deadlines, repeats and checkpoints."""

    active_deadline_seconds: Seconds | None = None
    """A run (all its attempts, without time suspended) may take this long."""
    queue_deadline_seconds: Seconds | None = None
    """A run may wait for admission this long."""
    backoff_limit: Annotated[int, Field(ge=0, le=20)] = 3
    """Attempts after the first one, for failures that another attempt can mend."""
    ttl_seconds_after_finished: Seconds | None = None
    """Child Jobs are deleted this long after they end. Versions stay."""
    checkpoint: Checkpoint = Checkpoint()
    """Checkpoints of a run."""
    on_out_of_memory: OnOutOfMemory = OnOutOfMemory.REDUCE_MICRO_BATCH
    """`ReduceMicroBatch`: halve it at the same effective batch size and go on."""


ResourceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9A-Z]([-a-z0-9A-Z._/]*[a-z0-9A-Z])?$", max_length=253)]


class Resources(Section):
    """Requests and limits of a pod, by resource name (`cpu`, `memory`, `nvidia.com/gpu`)."""

    requests: Annotated[dict[ResourceName, Quantity], Field(max_length=16)] = {}
    """What the scheduler sets aside."""
    limits: Annotated[dict[ResourceName, Quantity], Field(max_length=16)] = {}
    """What the pod may use at most."""


class Trainer(Section):
    """Size of the trainer. Everything else of its pod belongs to the profile."""

    resources: Resources = Resources()
    """Requests and limits of a trainer pod, bounded by the profile."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Trainer pods that work together."""
    processes_per_node: Annotated[
        Literal["Auto"] | Annotated[int, Field(ge=1, le=16)],
        Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
    ] = "Auto"
    """Processes per pod; `Auto`: one per GPU, or one."""


class OnExceeded(StrEnum):
    """What happens when the budget is used up."""

    CHECKPOINT_AND_STOP = "CheckpointAndStop"


class Budget(Section):
    """What one run may use."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "double(self.maxGPUHours) > 0.0",
            lambda m: float(m.max_gpu_hours) > 0,
            "budget.maxGPUHours must be above 0",
            "max_gpu_hours",
        ),
    )

    max_gpu_hours: Annotated[Decimal, Field(alias="maxGPUHours")]
    """GPU hours of one run, all attempts together."""
    on_exceeded: OnExceeded = OnExceeded.CHECKPOINT_AND_STOP
    """The run saves a checkpoint and stops; raise the budget to go on."""


class Volume(Section):
    """A PersistentVolumeClaim of the same namespace."""

    claim_name: ShortText
    """Name of the claim."""
    sub_path: RelativePath | None = None
    """Folder in it."""


class Output(Section):
    """Where versions are kept, and how many."""

    volume: Volume | None = None
    """By default the namespace's own claim, made by the operator."""
    history_limit: Annotated[int, Field(ge=1, le=100)] = 5
    """Versions kept besides the promoted and the previous one, which are never deleted."""


class TrackingType(StrEnum):
    """Experiment tracker."""

    MLFLOW = "MLflow"
    WANDB = "WandB"
    TENSORBOARD = "TensorBoard"


class Tracking(Section):
    """An experiment tracker that the run reports to."""

    type: TrackingType
    """Which tracker."""
    project: Name | None = None
    """Project or experiment name."""
    uri: (
        Annotated[str, StringConstraints(pattern=r"^(https?://[^ ]+|[A-Za-z0-9_][A-Za-z0-9._/-]*)$", max_length=512)]
        | None
    ) = None
    """The tracker's address; for TensorBoard a folder below the run's own."""
    secret_ref: SecretReference | None = None
    """Secret with the tracker's token."""
