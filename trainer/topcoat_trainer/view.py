"""How rows go through one model: as one line, packed or padded, and which part of it computes for which tokens.

What a view is made of was found out by trying (loop/survey.py); here it is only carried out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import nn
from transformers import PreTrainedModel

from topcoat_trainer import attention, batches, head, narrow
from topcoat_trainer.attention import Windows
from topcoat_trainer.batches import Batch
from topcoat_trainer.example import TokenRow


class Kind(StrEnum):
    """How rows stand together."""

    LINE = "Line"
    PACKED = "Packed"
    PADDED = "Padded"


@dataclass(frozen=True, slots=True)
class View:
    """One way through one model. `narrow`: modules of the last layer that compute only where something is predicted;
    `whole_head`: logits are computed everywhere; `notes`: what people should know of the choice.
    """

    model: PreTrainedModel
    kind: Kind = Kind.PACKED
    windows: Windows = ()
    narrow: tuple[nn.Module, ...] = ()
    whole_head: bool = False
    notes: tuple[str, ...] = ()

    def batch(self, rows: Sequence[TokenRow], chosen: Sequence[int]) -> Batch:
        """Tensors of the chosen rows."""
        if self.kind is Kind.LINE:
            return batches.lined(rows, chosen)
        return batches.batch(rows, chosen, packing=self.kind is Kind.PACKED)

    def ids(self, row: TokenRow) -> tuple[int, ...]:
        """The tokens of a row that are read."""
        return row.ids[: row.read_tokens] if self.kind is Kind.LINE else row.ids

    @contextmanager
    def reading(self, batch: Batch) -> Iterator[None]:
        """Inside it the model's own forward reads this batch (on the model's device) as it stands."""
        line = attention.lined(self.model.config, batch.line, self.windows) if batch.line else nullcontext()
        with line:
            yield

    def logits(self, batch: Batch) -> torch.Tensor:
        """Logits [positions, vocabulary] where the batch predicts."""
        moved = batch.to(self.model.device)
        logits = head.logits_everywhere if self.whole_head else head.logits_at
        with self.reading(moved), narrow.narrowed(self.narrow, moved.selected):
            return logits(self.model, moved.inputs(), moved.selected)
