"""What trials found before or while a run trained: rows of evaluation.json. JSON numbers, as in report.py."""

from __future__ import annotations

from topcoat.api.section import Lenient


class LayerTrial(Lenient):
    """A number of layers that `layers: Auto` tried."""

    layers: int
    """So many last layers trained."""
    steps: int
    """Optimizer steps of the trial; the same for all."""
    loss: float | None = None
    """Loss afterwards, mean per trained token, on training rows set aside; none: `note` says why."""
    gain_share: float = 0.0
    """How much the loss fell from the base model's, as a share of the largest fall of all trials."""
    relative_cost: float
    """Layers computed per row and epoch, as a multiple of the cheapest candidate's."""
    note: str = ""
    """Why there is no loss: it diverged, or memory ran out."""
    chosen: bool = False
    """Whether the candidate was trained so."""


class SweepTrial(Lenient):
    """One pair of values that `training.sweep` tried."""

    learning_rate: float
    """Peak learning rate."""
    rank: int | None = None
    """Rank of the adapter."""
    steps: int
    """Optimizer steps after which it was compared last."""
    loss: float | None = None
    """Loss there, mean per trained token, on training rows set aside; none: it diverged."""
    note: str = ""
    """Why it ended before the comparison, if it did."""
    chosen: bool = False
    """Whether it became the candidate."""
