"""`training`: how long, how fast and in what portions the tail learns."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from topcoat.api.field import BelowOne, Decimal, Quantity, Seed
from topcoat.api.method import Rank
from topcoat.api.section import Rule, Section

MOST_TRIALS = 16


class Scheduler(StrEnum):
    """Course of the learning rate after the warm-up."""

    LINEAR = "Linear"
    COSINE = "Cosine"
    CONSTANT = "Constant"


class LossOn(StrEnum):
    """Tokens that are learnt."""

    COMPLETION = "Completion"
    ALL = "All"


class Precision(StrEnum):
    """Number format of the computation."""

    AUTO = "Auto"
    BF16 = "BF16"
    FP16 = "FP16"
    FP32 = "FP32"


class CacheMode(StrEnum):
    """Use of the activation cache."""

    AUTO = "Auto"
    ENABLED = "Enabled"
    DISABLED = "Disabled"


class CacheMedium(StrEnum):
    """Where the activation cache lies."""

    AUTO = "Auto"
    MEMORY = "Memory"
    VOLUME = "Volume"


class EarlyStopping(Section):
    """Stops when the held-out loss no longer falls; the best checkpoint is kept."""

    patience: Annotated[int, Field(ge=1, le=100)] = 2
    """Evaluations without improvement before the run stops."""
    min_delta: Decimal = "0"
    """Fall of the loss that counts as an improvement."""


class ActivationCache(Section):
    """The frozen prefix runs once per row; its output at the boundary is kept and used again."""

    mode: CacheMode = CacheMode.AUTO
    """`Auto`: wherever it is exact and fits. `Enabled`: fail if it cannot be used. `Disabled`: never."""
    medium: CacheMedium = CacheMedium.AUTO
    """Memory, volume, or whichever is measured to be faster."""
    size_limit: Quantity | None = None
    """Most memory or disk to use."""
    keep: bool = False
    """Keep it on the volume after the run, so that a retrain with more rows computes only the new ones. It is as
    sensitive as the data."""


class Sweep(Section):
    """Values to try: each pair of a learning rate and a rank is a trial. All begin, the better half goes on again and
    again, and the best ends as the candidate. A tenth of the training rows, 200 at most, is set aside to choose by; the
    gate's rows are never seen.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "size(self.learningRates) + size(self.ranks) > 0",
            lambda m: bool(m.learning_rates or m.ranks),
            "training.sweep needs learningRates, ranks, or both",
        ),
        Rule(
            f"size(self.learningRates) * size(self.ranks) <= {MOST_TRIALS}",
            lambda m: len(m.learning_rates) * len(m.ranks) <= MOST_TRIALS,
            f"training.sweep makes more than {MOST_TRIALS} trials: one for each pair of a learning rate and a rank",
        ),
        Rule(
            "self.learningRates.all(r, double(r) > 0.0 && double(r) <= 1.0)",
            lambda m: all(0.0 < float(rate) <= 1.0 for rate in m.learning_rates),
            "every learning rate of training.sweep must be above 0 and at most 1",
            "learning_rates",
        ),
        Rule(
            "self.learningRates.all(r, self.learningRates.exists_one(o, double(o) == double(r)))"
            " && self.ranks.all(r, self.ranks.exists_one(o, o == r))",
            lambda m: (
                len({float(rate) for rate in m.learning_rates}) == len(m.learning_rates)
                and len(set(m.ranks)) == len(m.ranks)
            ),
            "training.sweep names a value twice",
        ),
    )

    learning_rates: Annotated[tuple[Decimal, ...], Field(max_length=8)] = ()
    """Peak learning rates to try, in place of `training.learningRate`."""
    ranks: Annotated[tuple[Rank, ...], Field(max_length=5)] = ()
    """Ranks to try, in place of `method.lora.rank`; of equally good ones the lowest wins. Only with LoRA and QLoRA."""

    @property
    def trials(self) -> int:
        """All pairs of a learning rate and a rank."""
        return max(1, len(self.learning_rates)) * max(1, len(self.ranks))


class Training(Section):
    """The training loop's settings. Floats are decimal strings."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self.microBatchSize <= self.effectiveBatchSize",
            lambda m: m.micro_batch_size <= m.effective_batch_size,
            "training.microBatchSize must not be above training.effectiveBatchSize",
        ),
        Rule(
            "!has(self.learningRate) || (double(self.learningRate) > 0.0 && double(self.learningRate) <= 1.0)",
            lambda m: m.learning_rate is None or 0.0 < float(m.learning_rate) <= 1.0,
            "training.learningRate must be above 0 and at most 1",
            "learning_rate",
        ),
        Rule(
            "!has(self.sweep) || !has(self.learningRate) || size(self.sweep.learningRates) == 0",
            lambda m: m.sweep is None or m.learning_rate is None or not m.sweep.learning_rates,
            "training.learningRate and training.sweep.learningRates exclude each other: leave one of them out",
            "sweep",
        ),
    )

    epochs: Annotated[int, Field(ge=1, le=1000)] = 3
    """Passes over the training rows."""
    max_steps: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Optimizer steps at most; ends the run before `epochs` does."""
    learning_rate: Decimal | None = None
    """Peak learning rate. By default 2e-4 for LoRA and QLoRA, 1e-5 for Full."""
    scheduler: Scheduler = Scheduler.LINEAR
    """Course of the learning rate after the warm-up."""
    warmup_ratio: BelowOne = "0.03"
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: Decimal = "0"
    """AdamW's decoupled weight decay; not applied to biases and norms."""
    max_grad_norm: Decimal = "1.0"
    """Gradients are scaled down to this norm. 0: never."""
    seed: Seed = 0
    """Seeds the adapter, the order of the rows and dropout. Same seed, same machine type: same weights on a CPU."""
    effective_batch_size: Annotated[int, Field(ge=1, le=65_536)] = 16
    """Rows per optimizer step, over all processes."""
    micro_batch_size: Annotated[int, Field(ge=0, le=65_536)] = 0
    """Rows per forward pass and process; 0: chosen for the memory at hand."""
    max_sequence_length: Annotated[int, Field(ge=16, le=1_048_576)] = 2048
    """Tokens per row at most, prompt and answer together."""
    packing: bool = True
    """Several rows share one sequence; they never see one another."""
    loss_on: LossOn = LossOn.COMPLETION
    """Learn the answers only, or all tokens."""
    precision: Precision = Precision.AUTO
    """`Auto`: BF16 on a GPU that has it, FP32 on a CPU."""
    early_stopping: EarlyStopping | None = None
    """Off unless given."""
    activation_cache: ActivationCache = ActivationCache()
    """The boundary activation cache."""
    sweep: Sweep | None = None
    """Tries several learning rates and ranks and keeps the best. Off unless given."""


def default_learning_rate(method_type: str) -> float:
    """The learning rate when none is given, by method."""
    return 1e-5 if method_type == "Full" else 2e-4
