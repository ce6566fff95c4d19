"""READ FIRST. FineTuneJob: a tuned model, kept in Git. Everything a user can say stands in its spec, field by field.

One file per field group, of the same name; the planner has a stage for each.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from topcoat.api.base_model import BaseModel
from topcoat.api.dataset import Dataset
from topcoat.api.evaluation import Evaluation
from topcoat.api.field import Name, ShortText
from topcoat.api.lifecycle import Budget, Lifecycle, Output, Tracking, Trainer
from topcoat.api.metadata import API_VERSION, JobMeta
from topcoat.api.method import DEFAULT_RANK, Method
from topcoat.api.promotion import Policy, Promotion
from topcoat.api.retrain import Retrain
from topcoat.api.section import Rule, Section
from topcoat.api.serving import Engine, Mode, Serving
from topcoat.api.status import FineTuneJobStatus
from topcoat.api.training import Training


class FineTuneJobSpec(Section):
    """What is wanted. A change of baseModel, dataset, method or training starts a new run; no other change does."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.promotion.approvedVersion) || self.promotion.policy == 'Manual'",
            lambda s: s.promotion.approved_version is None or s.promotion.policy == Policy.MANUAL,
            "promotion.approvedVersion needs promotion.policy Manual",
            "promotion",
        ),
        Rule(
            "!(self.method.lora.useDoRA && self.serving.engine == 'VLLM')",
            lambda s: not (s.method.lora.use_dora and s.serving.engine == Engine.VLLM),
            "vLLM does not serve DoRA adapters: use serving.engine Transformers or method.lora.useDoRA false",
            "method",
        ),
        Rule(
            "!(self.method.type == 'Full' && self.serving.engine == 'VLLM' && self.serving.mode == 'Shared')",
            lambda s: (
                not (s.method.type == "Full" and s.serving.engine == Engine.VLLM and s.serving.mode == Mode.SHARED)
            ),
            "vLLM cannot share a server among full-weight tails: use serving.mode Dedicated or engine Transformers",
            "serving",
        ),
        Rule(
            "!has(self.training.earlyStopping) || self.training.epochs > 1 || has(self.training.maxSteps)",
            lambda s: s.training.early_stopping is None or s.training.epochs > 1 or s.training.max_steps is not None,
            "training.earlyStopping needs more than one epoch, or maxSteps",
            "training",
        ),
        Rule(
            "!(self.method.type == 'Full' && has(self.training.sweep) && size(self.training.sweep.ranks) > 0)",
            lambda s: not (s.method.type == "Full" and s.training.sweep is not None and s.training.sweep.ranks),
            "training.sweep.ranks needs method.type LoRA or QLoRA: full weights have no rank",
            "training",
        ),
        # The API server fills in the default before it asks: a rank of 16 cannot be told from none.
        Rule(
            "!(has(self.training.sweep) && size(self.training.sweep.ranks) > 0"
            f" && self.method.lora.rank != {DEFAULT_RANK})",
            lambda s: s.training.sweep is None or not s.training.sweep.ranks or s.method.lora.rank == DEFAULT_RANK,
            "method.lora.rank and training.sweep.ranks exclude each other: leave one of them out",
            "training",
        ),
    )

    profile: ShortText = "default"
    """The cluster-scoped FineTuneProfile to use: which models, pods and limits the platform team allows."""
    base_model: BaseModel
    """Which foundation model is tuned."""
    dataset: Dataset
    """The rows to learn from and to be judged on."""
    method: Method = Method()
    """The form of the change and the layers in which it may happen."""
    training: Training = Training()
    """How long, how fast and in what portions the tail learns."""
    trainer: Trainer = Trainer()
    """Size of the trainer pods."""
    queue_name: Name | None = None
    """Kueue's local queue: label `kueue.x-k8s.io/queue-name` of the child Job."""
    suspend: bool = False
    """True stops a run at a checkpoint and starts none; what serves goes on serving."""
    lifecycle: Lifecycle = Lifecycle()
    """Deadlines, repeats and checkpoints."""
    budget: Budget | None = None
    """What one run may use."""
    output: Output = Output()
    """Where versions are kept, and how many."""
    evaluation: Evaluation = Evaluation()
    """What is measured on the held-out rows."""
    promotion: Promotion = Promotion()
    """When a candidate replaces what serves today."""
    serving: Serving = Serving()
    """Where clients find the tuned model."""
    retrain: Retrain = Retrain()
    """When a new run starts although the manifest did not change."""
    tracking: Annotated[tuple[Tracking, ...], Field(max_length=4)] = ()
    """Experiment trackers that the run reports to."""


class FineTuneJob(Section):
    """A tuned model: what it is made from, how it is judged, and where it serves."""

    api_version: Literal["topcoat.dev/v1alpha1"] = API_VERSION
    """Version of the API."""
    kind: Literal["FineTuneJob"] = "FineTuneJob"
    """Kind of object."""
    metadata: JobMeta
    """Name and namespace."""
    spec: FineTuneJobSpec
    """What is wanted."""
    status: FineTuneJobStatus | None = None
    """What is."""

    @property
    def alias(self) -> str:
        """The model name that clients call."""
        return self.spec.serving.model_name or self.metadata.name
