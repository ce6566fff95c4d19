"""How a course fits model and machine: in one line, packed or padded, where logits are taken, how much goes in at once.

Found out by computing both ways and comparing, not from lists of families. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from topcoat.api.training import Training
from topcoat_trainer import attention, batches, devices, head, layers, narrow, prefix
from topcoat_trainer.batches import Batch, Portion
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.devices import Device
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.view import Kind, View

# Values kept per token, layer and unit of width for the backward pass; twice what a usual layer keeps.
KEPT_VALUES = 40
MEMORY_SHARE = 0.4
# More tokens at once make nothing faster.
MOST_TOKENS = {"cpu": 4096, "cuda": 32_768}
FEWEST_TOKENS = 128
# For the trial of the last layer: one short row.
TRIAL_AMONG = 64
TRIAL_TOKENS = 32
FEWEST_TRIAL_TOKENS = 3


def view(model: PreTrainedModel, rows: Sequence[TokenRow], *, packing: bool) -> View:
    """How the model takes these rows, whatever of it is trained."""
    model.train(mode=False)
    notes: list[str] = []
    learnable = next(index for index in range(len(rows)) if batches.learnt_tokens(rows, [index]))
    trial = batches.batch(rows, [learnable], packing=False).to(model.device)
    why = head.misfit(model, trial.inputs(), trial.selected)
    if why:
        notes.append(f"logits are computed at all positions: {why}")
    found = View(model, Kind.PADDED, whole_head=bool(why))
    if packing:
        found = _together(found, rows, notes)
    return replace(found, notes=tuple(notes))


def narrowed(way: View, rows: Sequence[TokenRow]) -> View:
    """The same with a last layer that computes only what is asked for. Comes after a tail was attached, for it tells
    which modules.
    """
    way.model.train(mode=False)
    return replace(way, narrow=_narrow(way, rows))


def _together(plain: View, rows: Sequence[TokenRow], notes: list[str]) -> View:
    """In one line if the model allows it, else packed, else padded; each is tried."""
    try:
        lined = replace(plain, kind=Kind.LINE, windows=attention.windows(plain.model))
        why = batches.line_misfit(plain.model, rows, partial(_outputs, lined))
    except Exception as error:  # noqa: BLE001 (any family may break in its own way, and packing will do)
        why = error.message if isinstance(error, TrainerError) else f"it fails ({type(error).__name__})"
    if not why:
        return lined
    notes.append(f"what rows begin with in common is computed for each of them: {why}")
    if _carries_state(plain.model):
        # A trial in half precision is too coarse to see what such a state carries from row to row.
        notes.append("rows are padded instead of packed: the model carries more than keys and values")
        return plain
    why = batches.misfit(plain.model, rows, partial(_outputs, replace(plain, kind=Kind.PACKED)))
    if not why:
        return replace(plain, kind=Kind.PACKED)
    notes.append(f"rows are padded instead of packed: {why}")
    return plain


def _carries_state(model: PreTrainedModel) -> bool:
    """Whether more than keys and values goes from token to token."""
    try:
        return not prefix.has_only_attention(prefix.empty_cache(model))
    except Exception:  # noqa: BLE001 (a model without such a cache is tried like any other)
        return False


def _outputs(way: View, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return way.logits(batch)


def _narrow(way: View, rows: Sequence[TokenRow]) -> tuple[nn.Module, ...]:
    """Modules of the last layer that need not compute for every token: a row whose last token alone is learnt tells."""
    longest = max(rows[:TRIAL_AMONG], key=lambda row: len(row.ids))
    ids = longest.ids[:TRIAL_TOKENS]
    if len(ids) < FEWEST_TRIAL_TOKENS:
        return ()
    ended = replace(longest, ids=ids, trained=(*[False] * (len(ids) - 1), True))
    batch = way.batch([ended], [0]).to(way.model.device)
    outputs = partial(_outputs, way, batch)
    with _last_layer_alone(way, batch, outputs):
        return narrow.found(layers.stack(way.model)[-1], outputs, batch.selected)


def _last_layer_alone(way: View, batch: Batch, outputs: Callable[[], torch.Tensor]) -> AbstractContextManager[object]:
    """Inside it the layers before the last are not computed again for each trial, where that gives the same bits."""
    total = len(layers.stack(way.model))
    if total == 1:
        return nullcontext()
    halves = Halves(way.model, Boundary(total - 1, total))
    whole = outputs()
    try:
        with way.reading(batch):
            state = halves.capture(batch.inputs())
        with halves.injected(state):
            same = torch.equal(outputs(), whole)
    except Exception:  # noqa: BLE001 (any family may break in its own way; its layers are computed each time)
        return nullcontext()
    return halves.injected(state) if same else nullcontext()


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
