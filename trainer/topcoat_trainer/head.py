"""Logits only where something is predicted: hidden states are selected before the head.

The model's own code still scales and caps them, so no family needs code of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import nn

# A matrix product of fewer rows may be summed in another order, in bfloat16 too.
HEAD_TOLERANCE = 0.02


@contextlib.contextmanager
def selecting(model: nn.Module, selected: torch.Tensor) -> Iterator[None]:
    """Inside it the model's head sees only the selected flat positions, as one sequence."""
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


def misfit(model: nn.Module, inputs: dict[str, torch.Tensor], selected: torch.Tensor) -> str:
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
