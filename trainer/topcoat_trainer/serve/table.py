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
Spans = tuple[tuple[str, int, int], ...]
"""Where in a module's stacked LoRA each version lies, in order."""


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
    """One low-rank product for some tokens. `lines`: which of the stack. `foreign`: what is not a token's own."""

    tokens: slice
    lines: slice | torch.Tensor
    foreign: torch.Tensor | None = None


@dataclass(eq=False, slots=True)
class Table:
    """`stretches` in the order of the line."""

    stretches: Sequence[Stretch]
    device: torch.device
    keys: frozenset[str | None] = field(init=False)
    _products: dict[Spans, list[Product]] = field(default_factory=dict)
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

    def products(self, spans: Spans) -> list[Product]:
        """The fewest low-rank products that give every token its own version's share, and nothing of another's."""
        if spans not in self._products:
            places = {key: (start, stop) for key, start, stop in spans}
            touched = [stretch for stretch in self.stretches if stretch.key in places]
            few = [stretch for stretch in touched if stretch.tokens < MANY_TOKENS]
            if len(few) < 2:
                few = []
            found = [
                Product(slice(stretch.start, stretch.stop), slice(*places[str(stretch.key)]))
                for stretch in touched
                if stretch not in few
            ]
            self._products[spans] = found + ([self._mixed(few, spans)] if few else [])
        return self._products[spans]

    def _mixed(self, few: Sequence[Stretch], spans: Spans) -> Product:
        """One product for tokens of several versions. Another's lines are struck out, so it does not matter what
        they hold.
        """
        start, stop = few[0].start, few[-1].stop
        wanted = {stretch.key for stretch in few}
        chosen = [span for span in spans if span[0] in wanted]
        number = {key: index for index, (key, _, _) in enumerate(chosen)}
        owners = torch.tensor([number[key] for key, first, end in chosen for _ in range(end - first)])
        tokens = torch.full((stop - start,), -1)
        for stretch in few:
            tokens[stretch.start - start : stretch.stop - start] = number[str(stretch.key)]
        foreign = (tokens[:, None] != owners[None, :]).to(self.device)
        if len(chosen) == len(spans):
            return Product(slice(start, stop), slice(0, len(owners)), foreign)
        lines = torch.tensor([line for _, first, end in chosen for line in range(first, end)], device=self.device)
        return Product(slice(start, stop), lines, foreign)
