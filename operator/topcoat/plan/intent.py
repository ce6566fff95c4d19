"""What a plan wants done: intents, not Kubernetes objects, so that local mode and the cluster share one plan.

`manifests` spells each intent as an object; local mode carries it out with a process or a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from topcoat.api import base_model as base_models
from topcoat.api import conditions, finetunejob, lifecycle
from topcoat.api import run as runs
from topcoat.api import status as statuses


@dataclass(frozen=True, slots=True)
class Order:
    """What a trainer process is to do; with the folders it becomes a run file."""

    name: str
    namespace: str
    uid: str
    run: int
    attempt: int
    trigger: str
    input_hash: str
    spec: finetunejob.FineTuneJobSpec
    base_model: base_models.BaseModel
    budget: lifecycle.Budget | None
    serving: runs.ServingVersion | None
    max_dataset_bytes: int | None = None
    processes: int = 1
    gpus: int | None = None
    """GPUs of the run, all pods together; None: those of this machine."""

    def run_file(self, paths: runs.RunPaths, *, allow_local_files: bool) -> runs.RunFile:
        """All that the trainer is told."""
        spec = self.spec
        return runs.RunFile(
            name=self.name,
            namespace=self.namespace,
            uid=self.uid,
            run=self.run,
            attempt=self.attempt,
            trigger=self.trigger,
            input_hash=self.input_hash,
            base_model=self.base_model,
            dataset=spec.dataset,
            method=spec.method,
            training=spec.training,
            lifecycle=spec.lifecycle,
            evaluation=spec.evaluation,
            promotion=spec.promotion,
            budget=self.budget,
            tracking=spec.tracking,
            start_from=spec.retrain.start_from,
            serving=self._serving(paths),
            max_dataset_bytes=self.max_dataset_bytes,
            processes=self.processes,
            gpus=self.gpus,
            allow_local_files=allow_local_files,
            paths=paths,
        )

    def _serving(self, paths: runs.RunPaths) -> runs.ServingVersion | None:
        """The serving version where the trainer finds it: beside the version that it will seal."""
        if self.serving is None:
            return None
        return self.serving.model_copy(update={"path": f"{paths.versions}/{self.serving.version}"})


@dataclass(frozen=True, slots=True)
class StartPrepare:
    """Check data set and base model, and remember the answer under this key."""

    key: str
    order: Order


@dataclass(frozen=True, slots=True)
class StartTraining:
    """Start this attempt at this run, unless it was started already."""

    order: Order

    @property
    def run(self) -> int:
        return self.order.run

    @property
    def attempt(self) -> int:
        return self.order.attempt


@dataclass(frozen=True, slots=True)
class StopTraining:
    """Ask the attempt to save a checkpoint and end."""

    run: int
    attempt: int
    why: str


@dataclass(frozen=True, slots=True)
class Inspect:
    """Read the volume for what an attempt left there, because its last word was lost."""

    order: Order


@dataclass(frozen=True, slots=True)
class Held:
    """A version that a server shall hold."""

    version: str
    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class WriteAlias:
    """Tell the model server which versions to hold for an alias, and which of them answers (None: none yet)."""

    alias: str
    versions: tuple[Held, ...]
    target: str | None
    watched: str | None = None
    """The version that is tried, and its per cent of the traffic; the rest stays with `target`."""
    weight: int = 0


@dataclass(frozen=True, slots=True)
class Expire:
    """Let the cluster delete a run's finished Jobs after this time."""

    run: int
    seconds: int


@dataclass(frozen=True, slots=True)
class PointAlias:
    """Let the alias answer with this version."""

    alias: str
    version: str
    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class DropAlias:
    """Let the alias answer no more."""

    alias: str


@dataclass(frozen=True, slots=True)
class DeleteVersion:
    """Remove a version that history no longer keeps."""

    version: str
    path: str
    digest: str
    order: Order


Action = (
    StartPrepare | StartTraining | StopTraining | Inspect | Expire | PointAlias | WriteAlias | DropAlias | DeleteVersion
)


@dataclass(frozen=True, slots=True)
class Event:
    """One transition, for `kubectl get events` and the terminal."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to say, what to do, and when to look again."""

    status: statuses.FineTuneJobStatus
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    look_again_seconds: float | None = None
    notes: tuple[str, ...] = ()
    """What the manifest asks for and this mode leaves out."""


@dataclass(frozen=True, slots=True)
class Word:
    """What a stage says of one condition."""

    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


Kind = Literal["Working", "Stuck", "Settled"]
"""Working: more follows by itself. Stuck: a person must act. Settled: nothing to do."""


@dataclass(frozen=True, slots=True)
class Headline:
    """What a stage says of the job as a whole; the first stage with one is heard."""

    phase: conditions.Phase
    kind: Kind
    reason: str
    message: str
    ready: bool = False
    failure: statuses.Failure | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """What one stage found and wants."""

    words: Mapping[conditions.Condition, Word] = field(default_factory=dict)
    headline: Headline | None = None
    actions: tuple[Action, ...] = ()
    events: tuple[Event, ...] = ()
    updates: Mapping[str, Any] = field(default_factory=dict)
    """Fields of status, by attribute name."""
    look_again_seconds: float | None = None
