"""Whether a model bears the common batch, found out by trying: what its attention is asked for, where its tokens stand.

Looks at the model's own code only from outside; changes nothing in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import DynamicSlidingWindowLayer

from topcoat_trainer import layers, prefix
from topcoat_trainer.serve import attention
from topcoat_trainer.serve.attention import Misfit, States, Step, Windows
from topcoat_trainer.serve.shelf import Shape
from topcoat_trainer.serve.table import Table
from topcoat_trainer.serve.touched import Dims

TRIAL_TOKENS = (11, 13)
"""Two lengths, so that a dimension that counts tokens is told from one that happens to be as large."""
PER_BATCH_ROPE = ("dynamic", "longrope")


@dataclass(frozen=True, slots=True)
class Build:
    """What the common batch must know of a model."""

    shape: Shape
    windows: Windows
    dims: dict[str, Dims]
    keeps: bool
    """Whether the model's forward can be told which tokens' logits are wanted."""


def build(model: Any) -> Build:
    """What was found; Misfit if the model's answers would depend on what else is in the batch, or be wrong."""
    cache = prefix.empty_cache(model)
    count = len(layers.stack(model))
    if not prefix.has_only_attention(cache):
        raise Misfit("it keeps more than keys and values")
    if len(cache.layers) != count:
        raise Misfit("its layers share keys and values")
    config = model.config.get_text_config()
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        raise Misfit("its attention works in chunks")
    if found := _ropes(model).intersection(PER_BATCH_ROPE):
        raise Misfit(f"its positions ({found.pop()} RoPE) depend on the longest text of a batch")
    if not prefix.accepts(model, "position_ids"):
        raise Misfit("it cannot be told positions")
    windows = [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in cache.layers]
    return Build(_shape(model, count), windows, _dims(model), prefix.accepts(model, "logits_to_keep"))


def _ropes(model: Any) -> set[str]:
    """Kinds of rotary positions; a model may have one for each type of layer."""
    found: set[str] = set()
    for module in model.modules():
        kind = getattr(module, "rope_type", None)
        found.update(kind.values() if isinstance(kind, dict) else [kind] if kind else [])
    return found


class _Witness:
    """A reading that notes what attention is asked for, and answers with plain causal attention."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, tuple[int, int, int], torch.dtype]] = []

    def attend(self, states: States, layer: int, window: int | None) -> None:
        sizes = (states.key.shape[0], states.key.shape[2], states.value.shape[2])
        self.seen.append((layer, sizes, states.key.dtype))
        group = states.query.shape[0] // states.key.shape[0]
        keys, values = (part.repeat_interleave(group, 0) for part in (states.key, states.value))
        found = torch.nn.functional.scaled_dot_product_attention(
            states.query[None], keys[None], values[None], is_causal=True, scale=states.scaling
        )
        states.out.copy_(found[0].transpose(0, 1))


@torch.inference_mode()
def _shape(model: Any, count: int) -> Shape:
    witness = _Witness()
    step = Step([witness], [None] * count, Table([], model.device))
    with attention.stepping(model.config.get_text_config(), step):
        _run(model, TRIAL_TOKENS[0])
    if [layer for layer, _, _ in witness.seen] != list(range(count)):
        raise Misfit("its attention is computed in a way of its own")
    kinds = {(sizes, dtype) for _, sizes, dtype in witness.seen}
    if len(kinds) > 1:
        raise Misfit("its layers have keys of different shapes")
    (heads, key_size, value_size), dtype = kinds.pop()
    return Shape(count, heads, key_size, value_size, dtype, model.device)


def _run(model: Any, tokens: int) -> None:
    ids = torch.arange(tokens, device=model.device)[None, :] % model.get_input_embeddings().weight.shape[0]
    model(input_ids=ids, position_ids=torch.arange(tokens, device=model.device)[None, :], use_cache=False)


@torch.inference_mode()
def _dims(model: Any) -> dict[str, Dims]:
    """For every module that a version may change: where its tokens stand."""
    name, stack = layers.named_stack(model)
    holders = {f"{name}.{inner}": module for inner, module in stack.named_modules() if _holds(module)}
    calls: dict[str, list[tuple[Any, ...]]] = {holder: [] for holder in holders}
    with _hooked(holders, calls):
        for tokens in TRIAL_TOKENS:
            _run(model, tokens)
    found = {}
    for holder, seen in calls.items():
        inside = [module for module in holders[holder].modules() if module is not holders[holder]]
        if len(seen) != len(TRIAL_TOKENS) or any(map(_holds, inside)):
            raise Misfit(f"{holder} is not computed as one module, once for all tokens")
        found[holder] = _compared(*seen)
        if not any(dim is not None for dim in found[holder].arguments):
            raise Misfit(f"{holder} does not see all tokens")
    return found


def _holds(module: nn.Module) -> bool:
    return any(True for _ in module.parameters(recurse=False))


@contextmanager
def _hooked(holders: dict[str, nn.Module], calls: dict[str, list[tuple[Any, ...]]]) -> Iterator[None]:
    """Inside it every call is noted: shapes of arguments, of named arguments, of results."""

    def note(name: str) -> Any:
        def hook(_: nn.Module, arguments: Any, named: dict[str, Any], result: Any) -> None:
            results = result if isinstance(result, tuple) else (result,)
            shapes = [_size(value) for value in arguments], {key: _size(value) for key, value in named.items()}
            calls[name].append((*shapes, [_size(value) for value in results]))

        return hook

    handles = [module.register_forward_hook(note(name), with_kwargs=True) for name, module in holders.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _size(value: Any) -> tuple[int, ...]:
    return tuple(value.shape) if isinstance(value, torch.Tensor) else ()


def _compared(first: tuple[Any, ...], second: tuple[Any, ...]) -> Dims:
    return Dims(
        tuple(_differing(a, b) for a, b in zip(first[0], second[0], strict=True)),
        {name: _differing(size, second[1][name]) for name, size in first[1].items()},
        tuple(_differing(a, b) for a, b in zip(first[2], second[2], strict=True)),
    )


def _differing(first: tuple[int, ...], second: tuple[int, ...]) -> int | None:
    """The dimension that grew with the tokens. One that counts something else for each token cannot be cut."""
    found = [index for index, (a, b) in enumerate(zip(first, second, strict=True)) if a != b]
    if found and (len(found) > 1 or (first[found[0]], second[found[0]]) != TRIAL_TOKENS):
        raise Misfit("tokens are not told apart in its modules")
    return found[0] if found else None
