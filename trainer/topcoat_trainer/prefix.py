"""The tokens that all prompts begin with, computed once: a system prompt, a block of examples.

Causal attention makes their keys and values the same in every row, so this changes the cost and not the answers.
Knows attention caches only: a model that carries other state goes without (`prefix_or_none`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from topcoat_trainer.beginning import Ids, shared_length

__all__ = [
    "Ids",
    "Prefix",
    "accepts",
    "empty_cache",
    "expanded",
    "has_only_attention",
    "prefix_or_none",
    "shared_length",
    "taken",
    "window_or_none",
]

WORTH_SHARING_TOKENS = 4


@dataclass(frozen=True, slots=True)
class Prefix:
    """Token ids and, layer by layer, their keys and values (batch of one)."""

    ids: tuple[int, ...]
    states: tuple[tuple[torch.Tensor, torch.Tensor], ...]

    def __len__(self) -> int:
        return len(self.ids)


def empty_cache(model: Any) -> DynamicCache:
    return DynamicCache(config=model.config)


def accepts(model: Any, argument: str) -> bool:
    """Whether the model's own forward takes an argument; PEFT's wrapper takes anything and passes it on."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(inner.forward).parameters


def has_only_attention(cache: Cache) -> bool:
    """Whether every layer keeps plain keys and values, which may be cut, shifted and repeated."""
    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def window_or_none(cache: Cache) -> int | None:
    """Tokens that the narrowest sliding layer sees."""
    windows = [layer.sliding_window for layer in cache.layers if isinstance(layer, DynamicSlidingWindowLayer)]
    return min(windows) if windows else None


@torch.inference_mode()
def prefix_or_none(model: Any, ids: Ids) -> Prefix | None:
    """Reads the prefix once. None where nothing is gained or the model's state cannot be shared.

    A sliding layer forgets what lies beyond its window, so the prefix is cut to what every layer still holds.
    """
    cache = empty_cache(model)
    if not has_only_attention(cache):
        return None
    window = window_or_none(cache)
    kept = tuple(ids if window is None else ids[: window - 1])
    if len(kept) < WORTH_SHARING_TOKENS:
        return None
    last = {"logits_to_keep": 1} if accepts(model, "logits_to_keep") else {}
    model(input_ids=torch.tensor([kept], device=model.device), past_key_values=cache, use_cache=True, **last)
    layers: list[Any] = cache.layers
    states = tuple((layer.keys, layer.values) for layer in layers)
    whole = all(keys is not None and keys.dim() == 4 and keys.shape[-2] == len(kept) for keys, _ in states)
    return Prefix(kept, states) if whole else None


def expanded(model: Any, prefix: Prefix, pads: Sequence[int]) -> DynamicCache:
    """The prefix for a batch whose row i begins with `pads[i]` columns of padding; as wide as the prefix.

    Row i holds the padding and then as much of the prefix as fits; the tokens cut off are read again with the row's
    own. So every row stays right-aligned, and distances between tokens (sliding windows) are what they would be alone.
    """
    cache = empty_cache(model)
    columns = torch.arange(len(prefix), device=model.device)[None, :] - torch.tensor(pads, device=model.device)[:, None]
    padding = (columns < 0)[:, None, :, None]
    source = columns.clamp(min=0)
    layers: list[Any] = cache.layers
    for layer, (keys, values) in zip(layers, prefix.states, strict=True):
        if not any(pads):
            layer.update(keys.expand(len(pads), -1, -1, -1), values.expand(len(pads), -1, -1, -1))
            continue
        shifted = [state[0][:, source].transpose(0, 1).masked_fill(padding, 0) for state in (keys, values)]
        layer.update(*shifted)
    return cache


def taken(cache: Cache, rows: torch.Tensor) -> Cache:
    """A new cache with the chosen rows (a row may be chosen often); the old one stays as it is."""
    chosen = copy.copy(cache)
    plain = has_only_attention(cache)
    layers: list[Any] = [copy.copy(layer) if plain else copy.deepcopy(layer) for layer in cache.layers]
    chosen.layers = layers
    for layer in layers:
        layer.batch_select_indices(rows)
    return chosen
