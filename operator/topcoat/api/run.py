"""The run file: all that the trainer is told. Written by the planner's side, read by topcoat_trainer.

Paths in it are made by us, never by a tenant.
"""

from __future__ import annotations

from pydantic import Field

from topcoat.api.base_model import BaseModel
from topcoat.api.dataset import Dataset
from topcoat.api.evaluation import Evaluation
from topcoat.api.lifecycle import Budget, Lifecycle, Tracking
from topcoat.api.method import Method
from topcoat.api.promotion import Promotion
from topcoat.api.retrain import StartFrom
from topcoat.api.section import Section
from topcoat.api.training import Training


class ServingVersion(Section):
    """The version that serves today: the candidate is compared with it."""

    version: str
    """Its name."""
    path: str
    """Its folder."""
    digest: str
    """SHA-256 of its manifest.json."""


class RunPaths(Section):
    """Folders of one run. All exist, or are made by the trainer."""

    run: str
    """The run's own folder: checkpoints, log, progress.json, termination.json, metrics.jsonl."""
    versions: str
    """Where sealed versions appear, by one rename."""
    cache: str
    """What may be shared by runs and thrown away: prepared data, base scores."""
    sources: str = ""
    """Folder that relative `file://` URIs start from (the manifest's), local mode only."""
    volumes: str = ""
    """Folder under which `pvc://claim/path` is found as claim/path."""


class RunFile(Section):
    """One run of one job: identity, what to do, where."""

    format_version: int = Field(default=1, ge=1, le=1)
    """Version of this format."""
    name: str
    """FineTuneJob's name."""
    namespace: str = "default"
    """Its namespace."""
    uid: str
    """Its UID."""
    run: int = Field(ge=0)
    """Number of the run; 0 in a prepare stage that may not lead to one."""
    attempt: int = Field(default=1, ge=1)
    """Number of the attempt."""
    trigger: str = "Manual"
    """Why the run started."""
    input_hash: str = ""
    """Hash of the resolved inputs."""
    base_model: BaseModel
    """As in the manifest, catalogue names resolved to a uri and a revision."""
    dataset: Dataset
    """As in the manifest."""
    method: Method = Method()
    """As in the manifest."""
    training: Training = Training()
    """As in the manifest."""
    lifecycle: Lifecycle = Lifecycle()
    """As in the manifest."""
    evaluation: Evaluation = Evaluation()
    """As in the manifest."""
    promotion: Promotion = Promotion()
    """As in the manifest."""
    budget: Budget | None = None
    """As in the manifest."""
    tracking: tuple[Tracking, ...] = ()
    """As in the manifest."""
    start_from: StartFrom = StartFrom.BASE
    """Weights the run starts from."""
    serving: ServingVersion | None = None
    """The version that serves today."""
    max_dataset_bytes: int | None = Field(default=None, ge=1)
    """Most bytes that the data files may have together; a larger data set is refused unread."""
    processes: int = Field(default=1, ge=1)
    """Processes that train together, all pods counted."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs that the run will have, all pods together; nothing: those of this machine."""
    allow_local_files: bool = False
    """Whether file:// may be read: true in local mode only."""
    paths: RunPaths
    """Folders."""

    @property
    def version(self) -> str:
        """Name of the version that this run will seal: the run's own number."""
        return f"v{self.run}"
