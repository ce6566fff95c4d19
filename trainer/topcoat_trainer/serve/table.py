"""Which version each token of a step belongs to, and what follows from it for a module. Pure; made for every step.

Tokens of one version stand side by side: first the base, then LoRA versions with few tokens, then those with many,
then versions with layers of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

MANY_TOKENS = 16
"""From here on a version's share of a step is worth a product of its own."""
MOST_IDLE = 0.5
"""Of a stack: where more of its versions have no token, the others are picked out, which copies them."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens start to stop, all of one version."""

    start: int
    stop: int
    key: str | None

    @property
    def tokens(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Product:
    """One version's tokens by themselves. `place`: the version's number in the stack."""

    place: int
    tokens: slice


@dataclass(frozen=True, slots=True)
class Grid:
    """A few tokens each of several versions: one line of `width` cells for each version, so that one call computes all.

    `places`: the versions' numbers in the stack; None: all of it, in order. `read`: the token that each cell computes;
    a cell that is left over takes the step's first token, and nobody looks at it. `tokens` and `cells`: where the
    results go, and where they come from.
    """

    places: torch.Tensor | None
    width: int
    read: torch.Tensor
    tokens: torch.Tensor
    cells: torch.Tensor


@dataclass(eq=False, slots=True)
class Table:
    """`stretches` in the order of the line."""

    stretches: Sequence[Stretch]
    device: torch.device
    keys: frozenset[str | None] = field(init=False)
    _products: dict[tuple[str, ...], list[Product | Grid]] = field(default_factory=dict)
    _segments: dict[frozenset[str], list[Stretch]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.keys = frozenset(stretch.key for stretch in self.stretches)

    def segments(self, own: frozenset[str]) -> list[Stretch]:
        """The line cut where another module computes: one of `own`, or (None) the base's."""
        if own not in self._segments:
            found: list[Stretch] = []
            for stretch in self.stretches:
                key = stretch.key if stretch.key in own else None
                if found and found[-1].key == key:
                    found[-1] = Stretch(found[-1].start, stretch.stop, key)
                else:
                    found.append(Stretch(stretch.start, stretch.stop, key))
            self._segments[own] = found
        return self._segments[own]

    def products(self, stack: tuple[str, ...]) -> list[Product | Grid]:
        """The fewest low-rank products that give every token the share of its own version, out of these versions."""
        if stack not in self._products:
            places = {key: place for place, key in enumerate(stack)}
            touched = [(places[str(stretch.key)], stretch) for stretch in self.stretches if stretch.key in places]
            few = {place: stretch for place, stretch in touched if stretch.tokens < MANY_TOKENS}
            if len(few) < 2:
                few = {}
            found: list[Product | Grid] = [
                Product(place, slice(stretch.start, stretch.stop)) for place, stretch in touched if place not in few
            ]
            self._products[stack] = found + ([self._grid(few, len(stack))] if few else [])
        return self._products[stack]

    def _grid(self, few: dict[int, Stretch], versions: int) -> Grid:
        width = max(stretch.tokens for stretch in few.values())
        everyone = len(few) >= MOST_IDLE * versions
        places = list(range(versions)) if everyone else sorted(few)
        read = torch.zeros(len(places), width, dtype=torch.long)
        tokens: list[int] = []
        cells: list[int] = []
        for line, place in enumerate(places):
            if place in few:
                own = range(few[place].start, few[place].stop)
                read[line, : len(own)] = torch.tensor(own)
                tokens.extend(own)
                cells.extend(range(line * width, line * width + len(own)))
        made = (read.view(-1), torch.tensor(tokens), torch.tensor(cells))
        return Grid(None if everyone else self._there(torch.tensor(places)), width, *map(self._there, made))

    def _there(self, numbers: torch.Tensor) -> torch.Tensor:
        return numbers.to(self.device)
