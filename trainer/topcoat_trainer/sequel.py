"""What was read and goes on: keys and values of a line's tokens, and short texts that follow some of its rows.

Only what is kept and what sees what; what is computed with them is attention.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from topcoat_trainer import tree as trees

GROWTH = 1.25
Pair = tuple[torch.Tensor, torch.Tensor]


class Memory:
    """Keys and values of the tokens that were read, layer by layer, each tokens by heads by size.

    Tokens are put after those that are there; `settled` counts those that every layer has.
    """

    def __init__(self) -> None:
        self.settled = 0
        self._layers: dict[int, Pair] = {}

    def seen(self, layer: int) -> Pair:
        return self._layers[layer]

    def put(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """What this layer has of the tokens behind the settled ones."""
        end = self.settled + len(keys)
        kept = self._layers.get(layer)
        if kept is None or len(kept[0]) < end:
            kept = self._grown(kept, (keys, values), end)
            self._layers[layer] = kept
        kept[0][self.settled : end], kept[1][self.settled : end] = keys, values

    def settle(self, tokens: int) -> None:
        """All layers have so many tokens more."""
        self.settled += tokens

    def beginning(self, layers: int) -> Memory:
        """A memory of its own that has the first layers' states, with no room for more, and no others."""
        found = Memory()
        found._layers = {layer: states for layer, states in self._layers.items() if layer < layers}
        return found

    @property
    def size_bytes(self) -> int:
        return sum(keys.nbytes + values.nbytes for keys, values in self._layers.values())

    def _grown(self, kept: Pair | None, fresh: Pair, end: int) -> Pair:
        room = end if kept is None else int(end * GROWTH)
        keys, values = (states.new_empty(room, *states.shape[1:]) for states in fresh)
        if kept is not None:
            keys[: self.settled], values[: self.settled] = kept[0][: self.settled], kept[1][: self.settled]
        return keys, values


@dataclass(frozen=True, slots=True)
class Sequel:
    """Texts, filled up to `width` tokens, each after its own past: places in a memory, first token first.

    All pasts begin with `common`; `past` is what each has besides, filled up with place 0 to one length.
    """

    common: torch.Tensor
    past: torch.Tensor
    lengths: torch.Tensor
    width: int
    keep: bool = False
    """Whether the texts' own states are put into the memory."""
    masks: dict[tuple[int | None, torch.dtype], torch.Tensor] = field(default_factory=dict, compare=False)

    @property
    def positions(self) -> torch.Tensor:
        """Texts by width: each token's position in its row."""
        steps = torch.arange(self.width, device=self.lengths.device)
        return len(self.common) + self.lengths[:, None] + steps[None, :]

    def mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """What may be seen, as numbers to be added: texts by tokens by (common, past and own tokens)."""
        key = (window, dtype)
        if key not in self.masks:
            self.masks[key] = self._mask(window, dtype)
        return self.masks[key]

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        device, count, shared = self.lengths.device, len(self.lengths), len(self.common)
        own = self.positions
        before = torch.arange(shared + self.past.shape[1], device=device).expand(count, -1)
        real = before < shared + self.lengths[:, None]
        seen = torch.cat([before, own], dim=1)[:, None, :]
        there = torch.cat([real, real.new_ones(count, self.width)], dim=1)[:, None, :]
        allowed = there & (seen <= own[:, :, None])
        if window is not None:
            allowed &= own[:, :, None] - seen < window
        return torch.zeros(allowed.shape, dtype=dtype, device=device).masked_fill(~allowed, float("-inf"))


def sequel(pasts: Sequence[Sequence[int]], width: int, *, keep: bool, device: torch.device) -> Sequel:
    """Texts of `width` tokens after these places."""
    shared = _agreement(pasts)
    longest = max(len(past) for past in pasts) - shared
    rest = [[*past[shared:], *[0] * (shared + longest - len(past))] for past in pasts]
    return Sequel(
        torch.tensor(pasts[0][:shared], dtype=torch.long, device=device),
        torch.tensor(rest, dtype=torch.long, device=device).view(len(pasts), longest),
        torch.tensor([len(past) - shared for past in pasts], dtype=torch.long, device=device),
        width,
        keep,
    )


def _agreement(pasts: Sequence[Sequence[int]]) -> int:
    """Places that all begin with."""
    rows = [tuple(past) for past in pasts]
    return trees.agreement(min(rows), max(rows))
