"""Attention among the pieces of a line: each sees those before it in its tree and itself; nothing is computed twice.

transformers' own model code computes everything else of the line; where it asks for attention, it finds this one under
NAME. Outside a line it is plain SDPA. Gradients go through.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.cache_utils import DynamicSlidingWindowLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from topcoat_trainer import prefix
from topcoat_trainer.errors import TrainerError
from topcoat_trainer.line import Line

NAME = "topcoat_line"
STRANGE = ("softcap", "s_aux", "position_bias")
"""What some families ask of attention besides, and this one does not do."""
Windows = Sequence[int | None]
"""How far each layer sees; None: as far as the text goes."""


class _Present(threading.local):
    """What the thread computes now."""

    line: Line | None = None
    windows: Windows = ()


_present = _Present()


def windows(model: Any) -> list[int | None]:
    """How far each layer of the model sees. TrainerError where it remembers in a way that a line cannot be told."""
    if "chunked_attention" in (getattr(model.config.get_text_config(), "layer_types", None) or ()):
        raise TrainerError("its attention works in chunks")
    cache = prefix.empty_cache(model)
    if not prefix.has_only_attention(cache):
        raise TrainerError("it carries more than keys and values from token to token")
    layers: list[Any] = cache.layers
    return [layer.sliding_window if isinstance(layer, DynamicSlidingWindowLayer) else None for layer in layers]


@contextmanager
def lined(config: Any, line: Line, sight: Windows) -> Iterator[None]:
    """Inside it the model of this configuration attends as the line says."""
    config = config.get_text_config()
    before = config._attn_implementation  # noqa: SLF001 (the public way also asks a hub for kernels)
    config._attn_implementation = NAME  # noqa: SLF001
    _present.line, _present.windows = line, sight
    try:
        yield
    finally:
        _present.line = None
        config._attn_implementation = before  # noqa: SLF001


class _Moved(torch.autograd.Function):
    """Rows of `states` in another order: line `index[i]` comes to place i. `back` undoes it, so that no gradient is
    added up: adding by index is slow on a CPU, and in no fixed order on a GPU.
    """

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, index: torch.Tensor, back: torch.Tensor, unread: torch.Tensor | None
    ) -> torch.Tensor:
        ctx.save_for_backward(back, unread)
        return states.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        back, unread = ctx.saved_tensors
        found = gradients[0].index_select(0, back)
        if unread is not None and len(unread):
            found.index_fill_(0, unread, 0)
        return found, None, None, None


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    line = _present.line
    if line is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if asked := [name for name in STRANGE if options.get(name) is not None]:
        raise TrainerError(f"its attention asks for {asked[0]}")
    window = _present.windows[module.layer_idx]
    sizes = [group.count * group.width for group in line.groups]
    spread = [_spread(states, line).split(sizes) for states in (query, key, value)]
    plain = [states[0].transpose(0, 1) for states in (key, value)]
    found = []
    for number, group in enumerate(line.groups):
        own = [part[number].view(group.count, group.width, *part[number].shape[1:]) for part in spread]
        seen = own[1:]
        if len(group.before):
            shared = [states.index_select(0, group.before).expand(group.count, -1, -1, -1) for states in plain]
            seen = [torch.cat(pair, dim=1) for pair in zip(shared, seen, strict=True)]
        told = line.mask(number, window, query.dtype)
        found.append(_attended(own[0], seen[0], seen[1], told, options))
    out = torch.cat(found) if len(found) > 1 else found[0]
    return _Moved.apply(out, line.places, line.slots, line.filling)[None], None


def _spread(states: torch.Tensor, line: Line) -> torch.Tensor:
    """Heads by tokens by size of the line -> slots by heads by size."""
    found: torch.Tensor = _Moved.apply(states[0].transpose(0, 1), line.slots, line.places, None)
    return found


def _attended(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor, options: dict[str, Any]
) -> torch.Tensor:
    """Group by tokens by heads by size -> tokens by heads by size.

    A key's head serves several of the query's: these stand behind one another as if they were several tokens.
    """
    count, width, heads, size = query.shape
    kept = key.shape[2]
    shared = heads // kept
    asked = query.view(count, width, kept, shared, size).permute(0, 2, 3, 1, 4).reshape(count, kept, -1, size)
    told = mask.repeat(shared, 1) if shared > 1 else mask
    found = functional.scaled_dot_product_attention(
        asked,
        key.transpose(1, 2),
        value.transpose(1, 2),
        attn_mask=told,
        dropout_p=options.get("dropout") or 0.0,
        scale=options.get("scaling"),
    )
    out = found.view(count, kept, shared, width, -1).permute(0, 3, 1, 2, 4)
    return out.reshape(count * width, heads, -1)


AttentionInterface.register(NAME, _attention)
