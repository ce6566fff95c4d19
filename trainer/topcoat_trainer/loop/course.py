"""What the loop is given and what it gives back. Plain data; trains nothing.

Settings are the manifest's words as numbers; a course adds the model, the rows and the places to write to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from topcoat.api.lifecycle import OnOutOfMemory
from topcoat.api.run import RunFile
from topcoat.api.training import Scheduler, default_learning_rate
from topcoat_trainer.batches import Batch, Order, Portion
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.example import TokenRow
from topcoat_trainer.loop.stop import Stop
from topcoat_trainer.progress import Reporter
from topcoat_trainer.ranks import Ranks
from topcoat_trainer.view import View

# What surrounds the model's forward for a batch: an activation cache that knows the batch's rows, or nothing.
Around = Callable[[Batch], AbstractContextManager[object]]


def nothing(_: Batch) -> AbstractContextManager[object]:
    """The model's forward as it is."""
    return contextlib.nullcontext()


@dataclass(frozen=True, slots=True)
class Settings:
    """`training` and its neighbours, as numbers."""

    epochs: int = 3
    max_steps: int | None = None
    rows_per_step: int = 16
    learning_rate: float = 2e-4
    scheduler: Scheduler = Scheduler.LINEAR
    warmup_ratio: float = 0.03
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    seed: int = 0
    patience: int | None = None
    min_delta: float = 0.0
    checkpoint_interval_steps: int = 100
    checkpoints_kept: int = 2
    reduce_micro_batch: bool = True
    budget_seconds: float | None = None

    def order(self, rows: int) -> Order:
        return Order(rows, self.rows_per_step, self.epochs, self.seed, self.max_steps)


def settings(told: RunFile, gpus: int = 0) -> Settings:
    """The run file's settings. A budget of GPU hours says nothing where there is no GPU."""
    training, lifecycle = told.training, told.lifecycle
    stopping = training.early_stopping
    rate = training.learning_rate
    return Settings(
        epochs=training.epochs,
        max_steps=training.max_steps,
        rows_per_step=training.effective_batch_size,
        learning_rate=default_learning_rate(told.method.type) if rate is None else float(rate),
        scheduler=training.scheduler,
        warmup_ratio=float(training.warmup_ratio),
        weight_decay=float(training.weight_decay),
        max_grad_norm=float(training.max_grad_norm),
        seed=training.seed,
        patience=stopping.patience if stopping else None,
        min_delta=float(stopping.min_delta) if stopping else 0.0,
        checkpoint_interval_steps=lifecycle.checkpoint.interval_steps,
        checkpoints_kept=lifecycle.checkpoint.keep,
        reduce_micro_batch=lifecycle.on_out_of_memory is OnOutOfMemory.REDUCE_MICRO_BATCH,
        budget_seconds=float(told.budget.max_gpu_hours) * 3600 / gpus if told.budget and gpus else None,
    )


@dataclass(slots=True)
class Course:
    """One training: what learns, from what, how, and where it is written down."""

    model: PreTrainedModel
    boundary: Boundary
    rows: Sequence[TokenRow]
    watched: Sequence[TokenRow]
    """Rows that the held-out loss is taken on; never learnt from."""
    settings: Settings
    portion: Portion
    folder: Path
    identity: str
    reporter: Reporter
    stop: Stop
    view: View
    """How the model takes its rows (see survey.py)."""
    around: Around = nothing
    """Surrounds the forward of a batch of `rows`."""
    around_watched: Around = nothing
    """Surrounds the forward of a batch of `watched`."""
    soon: Callable[[Sequence[int]], None] = lambda _: None
    """Told which `rows` the next step learns from."""
    dtype: torch.dtype = torch.float32
    fence: Callable[[], None] = lambda: None
    """Raises where another process took the run over: asked before anything is written for good."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that share this training; only the first of them writes."""
    split: str = ""
    """Why each of them holds a part of the trained layers (see holding.py); empty where each holds all."""

    @property
    def device(self) -> torch.device:
        return self.model.device


@dataclass(slots=True)
class State:
    """Where a loop stands; with weights and optimizer, all that a checkpoint holds."""

    portion: Portion
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_loss: float | None = None
    best_step: int = 0
    worse: int = 0
    stopped_early: bool = False
    resumed: int = 0
    rolled_back: bool = False
    cache_note: str = ""
    scaler: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> State:
        return cls(**{**value, "portion": Portion(**value["portion"])})


@dataclass(frozen=True, slots=True)
class Trained:
    """What came of it. The model holds the trained weights."""

    steps: int
    target_steps: int
    epochs: float
    tokens: int
    seconds: float
    resumed: int
    resumed_from_step: int | None
    notes: tuple[str, ...]
    cache_note: str = ""
    watched_loss: float | None = None
    """Mean loss per learnt token of the watched rows, where it was asked for."""
