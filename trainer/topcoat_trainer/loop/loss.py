"""The loss, computed only where it is taken: hidden states are selected before the head, cross-entropy goes in chunks.

Sums, never means: the loop divides once, by the tokens of the whole step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

# Numbers of a chunk of logits in fp32: 64 MiB.
CHUNK_NUMBERS = 1 << 24
# A matrix product of fewer rows may be summed in another order, in bfloat16 too.
HEAD_TOLERANCE = 0.02


@contextlib.contextmanager
def selecting(model: nn.Module, selected: torch.Tensor) -> Iterator[None]:
    """Inside it the model's head sees only the selected flat positions, as one sequence.

    The model's own code still scales and caps the logits, so no family needs code of its own.
    """
    head = cast("nn.Module", cast("Any", model).get_output_embeddings())

    def narrow(_: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden = arguments[0]
        return (hidden.reshape(-1, hidden.shape[-1])[selected][None], *arguments[1:])

    handle = head.register_forward_pre_hook(narrow)
    try:
        yield
    finally:
        handle.remove()


def logits_at(model: nn.Module, inputs: dict[str, torch.Tensor], selected: torch.Tensor) -> torch.Tensor:
    """Logits [positions, vocabulary] at the selected positions only."""
    with selecting(model, selected):
        logits = cast("torch.Tensor", model(**inputs, use_cache=False).logits)
    return logits[0]


def logits_everywhere(model: nn.Module, inputs: dict[str, torch.Tensor], selected: torch.Tensor) -> torch.Tensor:
    """The same, slower: all logits are computed, then selected. For models whose head is not where we look for it."""
    logits = cast("torch.Tensor", model(**inputs, use_cache=False).logits)
    return logits.reshape(-1, logits.shape[-1])[selected]


def head_misfit(model: nn.Module, inputs: dict[str, torch.Tensor], selected: torch.Tensor) -> str:
    """Why the head cannot be given selected positions only; empty if it gives the same logits either way."""
    with torch.no_grad():
        everywhere = logits_everywhere(model, inputs, selected).float()
        try:
            narrowed = logits_at(model, inputs, selected).float()
        except (RuntimeError, TypeError, AttributeError, IndexError) as error:
            return f"the head does not take selected positions ({type(error).__name__})"
    if narrowed.shape != everywhere.shape:
        return "the head's output has another shape when positions are selected"
    difference = float((narrowed - everywhere).abs().max() / everywhere.abs().max().clamp_min(1e-3))
    return "" if difference <= HEAD_TOLERANCE else f"the head's output changes by {difference:.1e}"


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
