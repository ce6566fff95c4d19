"""Attention among the pieces of a line: each sees those before it in its tree and itself; nothing is computed twice.
What a line's tokens leave in a memory, texts that follow them see again (`followed`).

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
from topcoat_trainer.sequel import Memory, Sequel

NAME = "topcoat_line"
STRANGE = ("softcap", "s_aux", "position_bias")
"""What some families ask of attention besides, and this one does not do."""
Windows = Sequence[int | None]
"""How far each layer sees; None: as far as the text goes."""


class _Present(threading.local):
    """What the thread computes now."""

    line: Line | None = None
    windows: Windows = ()
    memory: Memory | None = None
    sequel: Sequel | None = None


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
def lined(config: Any, line: Line, sight: Windows, memory: Memory | None = None) -> Iterator[None]:
    """Inside it the model of this configuration attends as the line says, and puts what it reads into the memory."""
    with _instead(config):
        _present.line, _present.windows, _present.memory = line, sight, memory
        yield


@contextmanager
def followed(config: Any, memory: Memory, sequel: Sequel, sight: Windows) -> Iterator[None]:
    """Inside it the model of this configuration reads texts (all in one sequence) after what is in the memory."""
    with _instead(config):
        _present.sequel, _present.windows, _present.memory = sequel, sight, memory
        yield


@contextmanager
def _instead(config: Any) -> Iterator[None]:
    config = config.get_text_config()
    before = config._attn_implementation  # noqa: SLF001 (the public way also asks a hub for kernels)
    config._attn_implementation = NAME  # noqa: SLF001
    try:
        yield
    finally:
        _present.line = _present.memory = _present.sequel = None
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
    line, memory, sequel = _present.line, _present.memory, _present.sequel
    if line is None and sequel is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if asked := [name for name in STRANGE if options.get(name) is not None]:
        raise TrainerError(f"its attention asks for {asked[0]}")
    window = _present.windows[module.layer_idx]
    if memory is not None and (line is not None or (sequel is not None and sequel.keep)):
        memory.put(module.layer_idx, key[0].transpose(0, 1), value[0].transpose(0, 1))
    if memory is not None and sequel is not None:
        told = sequel.mask(window, torch.float32)
        return _after(query, (key, value), memory.seen(module.layer_idx), (sequel, told), options)[None], None
    assert line is not None  # noqa: S101 (one of both is there)
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


def _after(
    query: torch.Tensor,
    own: tuple[torch.Tensor, torch.Tensor],
    kept: tuple[torch.Tensor, torch.Tensor],
    told: tuple[Sequel, torch.Tensor],
    options: dict[str, Any],
) -> torch.Tensor:
    """Texts' own tokens (heads by tokens by size) after what a memory has -> tokens by heads by size.

    What all texts follow is not copied for each of them: scores with it are one product.
    """
    sequel, mask = told
    count, width, shared = len(sequel.lengths), sequel.width, len(sequel.common)
    heads, size = query.shape[1], query.shape[3]
    groups = own[0].shape[1]
    lines = heads // groups * width
    # Heads that share a key's head stand behind one another as if they were several tokens.
    asked = query[0].view(groups, heads // groups, count, width, size).permute(0, 2, 1, 3, 4)
    asked = asked.reshape(groups, count * lines, size)
    common = [states.index_select(0, sequel.common).transpose(0, 1) for states in kept]
    each = [
        torch.cat(
            [
                states.index_select(0, sequel.past.flatten()).view(*sequel.past.shape, *states.shape[1:]),
                fresh[0].transpose(0, 1).reshape(count, width, *states.shape[1:]),
            ],
            dim=1,
        ).permute(2, 0, 1, 3)
        for states, fresh in zip(kept, own, strict=True)
    ]
    apart = asked.view(groups, count, lines, size)
    near = apart @ each[0].transpose(2, 3)
    far = (asked @ common[0].transpose(1, 2)).view(groups, count, lines, shared)
    scale = options.get("scaling") or size**-0.5
    scores = torch.cat([far, near], dim=3).float() * scale + mask.repeat(1, heads // groups, 1)
    shares = scores.softmax(dim=-1).to(query.dtype)
    found = shares[..., shared:] @ each[1]
    found += (shares[..., :shared].reshape(groups, count * lines, shared) @ common[1]).view_as(found)
    out: torch.Tensor = found.view(groups, count, heads // groups, width, -1).permute(1, 3, 0, 2, 4)
    return out.reshape(count * width, heads, -1)


AttentionInterface.register(NAME, _attention)
