"""Whether a model may be computed in two halves: one batch is computed whole and split, and compared.

Done at every start, on the rows at hand. Changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from transformers import PreTrainedModel

from topcoat_trainer.batches import Batch
from topcoat_trainer.cache.states import BoundaryCache
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves, difference
from topcoat_trainer.view import View

logger = logging.getLogger(__name__)

CHECK_TOKENS = 192
CHECK_AMONG = 64
# A row's state is the same number however it was batched, up to the order of summation inside a kernel.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def computing(model: PreTrainedModel, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Inside it the model computes in `dtype`, as the loop lets it."""
    return torch.autocast(model.device.type, dtype) if dtype is not torch.float32 else nullcontext()


def tolerance(dtype: torch.dtype) -> float:
    """How far logits may be apart when rows were computed in other company."""
    return TOLERANCE.get(dtype, 1e-4)


def misfit(halves: Halves, rows: Sequence[TokenRow], view: View) -> tuple[str, float]:
    """Why the model cannot be split (empty if it can), and how far apart logits are, as a share of the largest, when
    rows were filled in other company than they are trained in.

    Split at the state of the very same batch, the bits must be equal: a family that carries anything else past the
    boundary is found by that, also where rounding would hide it.
    """
    try:
        split, kept = _differences(halves, rows, view)
    except TrainerError as error:
        return f"the self-check failed: {error.message}", 0.0
    except Exception as error:  # any family may break in its own way, and a cache is never worth a failed run
        logger.info("activation cache: the self-check failed", exc_info=True)
        return f"the self-check failed ({type(error).__name__}); this family cannot be split", 0.0
    if split:
        return f"the split pass differs from the whole one by {split:.1e}", split
    if kept > tolerance(halves.model.dtype):
        return f"rows of one batch influence one another, by {kept:.1e}", kept
    return "", kept


def _differences(halves: Halves, rows: Sequence[TokenRow], view: View) -> tuple[float, float]:
    """How far one batch's logits are apart, whole and split: first with the state caught from that very batch (0: the
    bits are equal), then with states filled as the cache fills them.
    """
    few = _sample(rows)
    batch = view.batch(few, range(len(few))).to(halves.model.device)
    alone = BoundaryCache(halves, view)
    alone.fill(few)
    real = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
    for segment in batch.segments:
        real[segment.sequence, segment.start : segment.start + segment.length] = True
    training = [module for module in halves.model.modules() if module.training]
    halves.model.eval()
    try:
        with torch.no_grad(), view.reading(batch):
            whole = _logits(halves.model, batch)[real]
            with halves.injected(halves.capture(batch.inputs())) as model:
                split = _logits(model, batch)[real]
            with alone.around(batch) as model:
                kept = _logits(model, batch)[real]
    finally:
        for module in training:
            module.training = True
    return difference(whole, split), difference(whole, kept)


def _sample(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """Short rows of the first, for a check that takes seconds; two at least, since company is what is checked."""
    chosen: list[TokenRow] = []
    tokens = 0
    for row in sorted(rows[:CHECK_AMONG], key=lambda row: len(row.ids)):
        if len(chosen) >= 2 and tokens + len(row.ids) > CHECK_TOKENS:
            break
        chosen.append(row)
        tokens += len(row.ids)
    return chosen


def _logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    logits: torch.Tensor = model(**batch.inputs(), use_cache=False).logits
    return logits.cpu()
