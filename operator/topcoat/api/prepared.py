"""prepared.json: what the prepare stage found of data set and base model. Counts and digests, never a row.

Numbers are JSON numbers and unknown fields are ignored, as in report.py.
"""

from __future__ import annotations

from enum import StrEnum

from topcoat.api.section import Lenient


class TaskKind(StrEnum):
    """What the rows ask the model to do."""

    CLASSIFICATION = "Classification"
    JSON = "JSON"
    GENERATION = "Generation"
    TEXT = "Text"


class StageEstimate(Lenient):
    """One stage of a run: its work, and its time where the device's speed is known."""

    stage: str
    """Name of the stage: `Loading`, `Caching`, `Training`, `Evaluating` or `Baselines`."""
    operations: float = 0.0
    """Floating-point operations."""
    seconds: float | None = None
    """Wall time; nothing where the speed of the device is not known."""


class MemoryEstimate(Lenient):
    """One part of the memory."""

    part: str
    """What it holds."""
    bytes: int
    """Its size."""


class Estimate(Lenient):
    """What a run will need, before it starts. What cannot be known is left out, never guessed."""

    memory_bytes: int
    """Peak memory of a trainer process, in bytes."""
    duration_seconds: float | None = None
    """Wall time of all stages; nothing where the speed of the device is not known."""
    trained_parameters: int
    """Parameters that change."""
    total_parameters: int
    """Parameters of the model."""
    layer_candidates: list[int] = []
    """Numbers of layers among which trials will choose (`layers: Auto`); empty where none are held."""
    stages: list[StageEstimate] = []
    """The stages, in their order."""
    memory: list[MemoryEstimate] = []
    """What memory holds when it holds most, on the GPU where there is one."""
    gpu_memory_bytes: int | None = None
    """Peak memory of one GPU, in bytes; nothing on a CPU."""
    disk_bytes: int = 0
    """What the run writes: checkpoints, the version, and an activation cache that lies on the volume."""
    gpus: int = 0
    """GPUs of the run, all pods together."""
    gpu_hours: float | None = None
    """GPU hours; nothing without a GPU or where its speed is not known."""
    device: str = ""
    """What the times are for, and where they come from."""

    @property
    def operations(self) -> float:
        """Floating-point operations of all stages."""
        return sum(stage.operations for stage in self.stages)


class DataCard(Lenient):
    """What is known of the data set. Counts and digests only, never a row."""

    digest: str
    """SHA-256 over the files."""
    format: str
    """Shape of the rows, as found."""
    task: TaskKind
    """What the rows ask for."""
    rows: int
    """Rows read."""
    invalid: int = 0
    """Rows left out because they cannot be used."""
    duplicates: int = 0
    """Rows whose content stands earlier in the file too."""
    near_duplicates: int = 0
    """Held-out rows very like a training row (MinHash)."""
    truncated: int = 0
    """Rows cut at training.maxSequenceLength."""
    dropped: int = 0
    """Rows left out as too long."""
    train_samples: int
    """Rows to learn from."""
    holdout_samples: int
    """Rows to be judged on."""
    holdout_digest: str
    """SHA-256 over the held-out rows' digests."""
    groups: int = 0
    """Distinct groups among the held-out rows."""
    split_rule: str
    """How rows were held out, in words."""
    tokens: int = 0
    """Tokens of the training rows."""
    trained_tokens: int = 0
    """Tokens with loss."""
    longest_tokens: int = 0
    """Tokens of the longest row."""
    shared_tokens: int = 0
    """Tokens that all training rows begin with."""
    holdout_tokens: int = 0
    """Tokens of the held-out rows."""
    holdout_prompt_tokens: int = 0
    """Tokens of the held-out rows before their answers."""
    longest_answer_tokens: int = 0
    """Tokens of the longest answer among the held-out rows."""
    guard_tokens: int = 0
    """Tokens of the guards' rows."""
    labels: dict[str, int] = {}
    """Rows per label (training rows), for classification."""
    system_prompt: str | None = None
    """The system message, where all rows share one."""
    notes: list[str] = []
    """What a person should know: label skew, overlap, and the like."""


class BaseModelCard(Lenient):
    """What is known of the base model."""

    id: str
    """Name that servers use (`org/name`, or the last part of a path)."""
    uri: str
    """Where it came from."""
    path: str
    """Folder on this machine or volume."""
    revision: str
    """Pinned revision; for a folder, its digest."""
    digest: str
    """SHA-256 over all files used."""
    config_digest: str
    """SHA-256 of config.json."""
    architecture: str
    """Class name in config.json."""
    layers: int
    """Decoder layers."""
    hidden_size: int
    """Width."""
    parameters: int
    """Number of parameters."""
    bytes: int
    """Size of the weights on disk."""


class PrepareReport(Lenient):
    """prepared.json: what the prepare stage found."""

    base_model: BaseModelCard
    """The base model."""
    dataset: DataCard
    """The data set."""
    train_path: str
    """File with the training rows."""
    evaluation_path: str | None = None
    """File with the user's own held-out rows."""
    estimate: Estimate
    """What a run will need."""
    seconds: float
    """Wall time of the stage."""
