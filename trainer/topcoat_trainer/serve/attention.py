"""Attention of a common step: every token sees its own text's keys and values, wherever in the batch it stands.

All tokens of a step lie in one line, and transformers' own model code computes everything else of it. Where that code
asks for attention, it finds this one under NAME: it writes the new keys and values to their places and reads each
text's own. Outside a step it is plain SDPA. One thread computes at a time (`stepping`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from topcoat_trainer.serve.shelf import Place, Shelf
from topcoat_trainer.serve.table import Table

NAME = "topcoat_batch"
STRANGE = ("softcap", "s_aux")
"""What some families ask of attention besides, and this one does not do."""
Windows = Sequence[int | None]
"""How far each layer sees; None: as far as the text goes."""


class Misfit(Exception):
    """The model cannot be batched; the words say why."""


class Reading(Protocol):
    """Some tokens of a step that are attended in one go."""

    def attend(self, states: States, layer: int, window: int | None) -> None: ...


@dataclass(frozen=True, slots=True)
class States:
    """Queries, keys and values of all tokens of a step: heads, tokens, size. `out`: tokens, heads, size."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    scaling: float | None
    out: torch.Tensor


@dataclass(frozen=True, slots=True)
class Step:
    """One pass through the model. `table`: which version each token belongs to."""

    readings: Sequence[Reading]
    windows: Windows
    table: Table

    def attend(self, layer: int, states: States) -> None:
        for reading in self.readings:
            reading.attend(states, layer, self.windows[layer])


class _Present(threading.local):
    """What the thread computes now."""

    step: Step | None = None


_present = _Present()


@contextmanager
def stepping(config: Any, step: Step) -> Iterator[None]:
    """Inside it the model of this configuration computes the step."""
    before = config._attn_implementation  # noqa: SLF001 (the public way also asks a hub for kernels)
    config._attn_implementation = NAME  # noqa: SLF001
    _present.step = step
    try:
        yield
    finally:
        _present.step = None
        config._attn_implementation = before  # noqa: SLF001


def table_or_none() -> Table | None:
    step = _present.step
    return None if step is None else step.table


def _attention(
    module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    step = _present.step
    if step is None:
        return sdpa_attention_forward(module, query, key, value, mask, **options)
    if asked := [name for name in STRANGE if options.get(name) is not None]:
        raise Misfit(f"its attention asks for {asked[0]}")
    out = query.new_empty(query.shape[2], query.shape[1], value.shape[3])
    step.attend(module.layer_idx, States(query[0], key[0], value[0], options.get("scaling"), out))
    return out[None], None


AttentionInterface.register(NAME, _attention)


@dataclass(eq=False, slots=True)
class Single:
    """One token each of many texts of one shelf: `tokens` in the line, by `rows` of the shelf, at `positions`."""

    shelf: Shelf
    tokens: torch.Tensor
    rows: torch.Tensor
    positions: torch.Tensor
    longest: int
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)
    everyone: torch.Tensor = field(init=False)
    count: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.shelf.places)
        # Rows that have no token now compute along with the line's first one, and nobody looks at it.
        self.everyone = torch.zeros(self.count, dtype=torch.long, device=self.tokens.device)
        self.everyone[self.rows] = self.tokens

    def attend(self, states: States, layer: int, window: int | None) -> None:
        keys, values = self.shelf.keys[layer], self.shelf.values[layer]
        keys[self.rows, :, self.positions] = states.key[:, self.tokens].transpose(0, 1)
        values[self.rows, :, self.positions] = states.value[:, self.tokens].transpose(0, 1)
        heads, size = keys.shape[1], states.query.shape[2]
        # A key's head serves several of the query's; these stand side by side as if they were several tokens.
        query = states.query[:, self.everyone].transpose(0, 1).reshape(self.count, heads, -1, size)
        found = functional.scaled_dot_product_attention(
            query,
            keys[: self.count, :, : self.longest],
            values[: self.count, :, : self.longest],
            attn_mask=self._mask(window, query.dtype),
            scale=states.scaling,
        )
        states.out[self.tokens] = found.reshape(self.count, -1, found.shape[3])[self.rows]

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        if window not in self.masks:
            device = self.tokens.device
            ends = torch.zeros(self.count, dtype=torch.long, device=device)
            ends[self.rows] = self.positions
            places = torch.arange(self.longest, device=device)[None, :]
            seen = places <= ends[:, None]
            if window is not None:
                seen &= places > ends[:, None] - window
            self.masks[window] = _additive(seen, dtype)[:, None, None, :]
        return self.masks[window]


@dataclass(eq=False, slots=True)
class Run:
    """Following tokens of one text: `tokens` of the line, after `past` that were read before."""

    place: Place
    tokens: slice
    past: int
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def attend(self, states: States, layer: int, window: int | None) -> None:
        shelf, row, end = self.place.shelf, self.place.index, self.past + self.tokens.stop - self.tokens.start
        keys, values = shelf.keys[layer, row], shelf.values[layer, row]
        keys[:, self.past : end] = states.key[:, self.tokens]
        values[:, self.past : end] = states.value[:, self.tokens]
        group = states.query.shape[0] // keys.shape[0]
        mask = self._mask(window, group, states.query)
        _read(states, self.tokens, (keys[:, :end], values[:, :end]), mask)

    def _mask(self, window: int | None, group: int, like: torch.Tensor) -> torch.Tensor:
        if window not in self.masks:
            count = self.tokens.stop - self.tokens.start
            own = torch.arange(self.past, self.past + count, device=like.device)[:, None]
            seen = _visible(own, torch.arange(self.past + count, device=like.device)[None, :], window)
            self.masks[window] = _additive(seen, like.dtype).repeat(group, 1)
        return self.masks[window]


@dataclass(eq=False, slots=True)
class Branches:
    """Several continuations of one text, none of which sees another; nothing of them is written."""

    place: Place
    tokens: slice
    past: int
    lengths: Sequence[int]
    masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def attend(self, states: States, layer: int, window: int | None) -> None:
        shelf, row = self.place.shelf, self.place.index
        keys, values = shelf.keys[layer, row, :, : self.past], shelf.values[layer, row, :, : self.past]
        group = states.query.shape[0] // keys.shape[0]
        keys = torch.cat([keys, states.key[:, self.tokens]], dim=1)
        values = torch.cat([values, states.value[:, self.tokens]], dim=1)
        _read(states, self.tokens, (keys, values), self._mask(window, group, states.query))

    def _mask(self, window: int | None, group: int, like: torch.Tensor) -> torch.Tensor:
        if window not in self.masks:
            device = like.device
            own = torch.tensor(positions(self.past, self.lengths), device=device)
            branch = torch.arange(len(self.lengths), device=device).repeat_interleave(
                torch.tensor(self.lengths, device=device)
            )
            before = _visible(own[:, None], torch.arange(self.past, device=device)[None, :], window)
            among = _visible(own[:, None], own[None, :], window) & (branch[:, None] == branch[None, :])
            self.masks[window] = _additive(torch.cat([before, among], dim=1), like.dtype).repeat(group, 1)
        return self.masks[window]


def positions(past: int, lengths: Sequence[int]) -> list[int]:
    """Where the tokens of branches stand in their texts."""
    return [past + step for length in lengths for step in range(length)]


def _read(states: States, tokens: slice, seen: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor) -> None:
    """The tokens of one text; heads that share keys stand one below the other."""
    keys, values = seen
    query = states.query[:, tokens]
    count = query.shape[1]
    found = functional.scaled_dot_product_attention(
        query.reshape(1, keys.shape[0], -1, query.shape[2]),
        keys[None],
        values[None],
        attn_mask=mask,
        scale=states.scaling,
    )
    states.out[tokens] = found.view(-1, count, found.shape[3]).transpose(0, 1)


def _visible(own: torch.Tensor, others: torch.Tensor, window: int | None) -> torch.Tensor:
    seen = others <= own
    return seen if window is None else seen & (others > own - window)


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
