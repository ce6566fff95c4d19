"""How a course fits this model and this machine: packed or padded, where logits are taken, how much goes in at once.

Found out by computing both ways and comparing, not from lists of families. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from topcoat.api.training import Training
from topcoat_trainer import batches, devices
from topcoat_trainer.batches import Batch, Portion
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.devices import Device
from topcoat_trainer.example import TokenRow
from topcoat_trainer.loop import loss
from topcoat_trainer.loop.course import View

# Values kept per token, layer and unit of width for the backward pass; twice what a usual layer keeps.
KEPT_VALUES = 40
MEMORY_SHARE = 0.4
# More tokens at once make nothing faster.
MOST_TOKENS = {"cpu": 4096, "cuda": 32_768}
FEWEST_TOKENS = 128


def view(model: PreTrainedModel, rows: Sequence[TokenRow], *, packing: bool) -> View:
    """How the model takes these rows."""
    model.train(mode=False)
    device = model.device
    notes: list[str] = []
    learnable = next(index for index in range(len(rows)) if batches.learnt_tokens(rows, [index]))
    trial = batches.batch(rows, [learnable], packing=False).to(device)
    why = loss.head_misfit(model, trial.inputs(), trial.selected)
    logits = loss.logits_everywhere if why else loss.logits_at
    if why:
        notes.append(f"logits are computed at all positions: {why}")

    def outputs(batch: Batch) -> torch.Tensor:
        moved = batch.to(device)
        return logits(model, moved.inputs(), moved.selected)

    why = batches.misfit(model, rows, outputs) if packing else ""
    if why:
        notes.append(f"rows are padded instead of packed: {why}")
    return View(packing and not why, logits, tuple(notes))


@dataclass(frozen=True, slots=True)
class Room:
    """What the size of a portion depends on."""

    device: Device
    boundary: Boundary
    hidden_size: int
    vocabulary_size: int


def portion(training: Training, rows: Sequence[TokenRow], room: Room) -> Portion:
    """How much goes through the model at once: what the manifest says, else what memory surely holds."""
    longest = max(len(row.ids) for row in rows)
    if training.micro_batch_size:
        return Portion(training.micro_batch_size, training.micro_batch_size * longest)
    tokens = sum(len(row.ids) for row in rows)
    learnt = batches.learnt_tokens(rows, range(len(rows))) / tokens
    kept = KEPT_VALUES * room.hidden_size * room.boundary.trained_layers * room.device.dtype.itemsize
    token_bytes = kept + learnt * room.vocabulary_size * 3 * torch.float32.itemsize
    fitting = int(devices.available_bytes(room.device) * MEMORY_SHARE / token_bytes)
    # A power of two: free memory is never twice the same, but a run that is repeated should be.
    fitting = 1 << max(fitting, FEWEST_TOKENS).bit_length() - 1
    most = MOST_TOKENS["cuda" if room.device.is_gpu else "cpu"]
    return Portion(training.effective_batch_size, min(fitting, most))
