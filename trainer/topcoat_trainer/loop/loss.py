"""The loss: cross-entropy in chunks, computed again on the way back.

Sums, never means: the loop divides once, by the tokens of the whole step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

# Numbers of a chunk of logits in fp32: 64 MiB.
CHUNK_NUMBERS = 1 << 24


def _chunk_sum(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.float(), targets, reduction="sum")


def summed(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross-entropy summed over the positions, in fp32, in chunks that are computed again on the way back."""
    rows = max(1, CHUNK_NUMBERS // max(1, logits.shape[-1]))
    if logits.shape[0] <= rows:
        return _chunk_sum(logits, targets)
    chunks = zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
    parts = [checkpoint(_chunk_sum, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.stack(parts).sum()
