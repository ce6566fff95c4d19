"""A tree of rows laid out as one line of tokens, without filling, and which tokens each piece of it sees.

Only indices: what is computed with them is attention.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from topcoat_trainer.tree import Tree

LENGTH_SLACK = 0.6
FEW_PIECES = 4
"""A group of at least so many pieces is left alone by pieces much shorter than its longest."""


@dataclass(frozen=True, slots=True)
class Group:
    """Pieces that are attended in one go: `count` of them, filled up to `width` tokens, after the tokens `before`."""

    count: int
    width: int
    before: torch.Tensor


@dataclass(frozen=True, slots=True)
class Line:
    """All pieces one behind the other. Slots are the groups' places, filling included, group after group.

    `slots[s]` is the token that slot s holds (filling holds some token of its piece), `places[t]` the slot of token t,
    `filling` the slots that nobody reads.
    """

    groups: tuple[Group, ...]
    slots: torch.Tensor
    places: torch.Tensor
    filling: torch.Tensor
    masks: dict[tuple[int, int | None, torch.dtype], torch.Tensor] = field(default_factory=dict, compare=False)

    def to(self, device: torch.device) -> Line:
        groups = tuple(Group(group.count, group.width, group.before.to(device)) for group in self.groups)
        return Line(groups, self.slots.to(device), self.places.to(device), self.filling.to(device))

    def mask(self, number: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        """What group `number` may see, as numbers to be added: tokens by tokens, those before and its own."""
        key = (number, window, dtype)
        if key not in self.masks:
            group = self.groups[number]
            before = len(group.before)
            own = torch.arange(before, before + group.width, device=self.slots.device)[:, None]
            seen = torch.arange(before + group.width, device=self.slots.device)[None, :]
            allowed = seen <= own
            if window is not None:
                allowed &= own - seen < window
            self.masks[key] = torch.zeros(allowed.shape, dtype=dtype, device=own.device).masked_fill(
                ~allowed, float("-inf")
            )
        return self.masks[key]


def starts(tree: Tree) -> list[int]:
    """Where each piece begins in the line."""
    found, start = [], 0
    for piece in tree.pieces:
        found.append(start)
        start += len(piece)
    return found


def line(tree: Tree) -> Line:
    """The line of the tree's pieces, in their order."""
    begin = starts(tree)
    groups: list[Group] = []
    slots: list[int] = []
    places = [0] * tree.tokens
    filling: list[int] = []
    for parent, members in _groups(tree):
        width = max(len(tree.pieces[member]) for member in members)
        before = [begin[piece] + token for piece in tree.path(parent) for token in range(len(tree.pieces[piece]))]
        groups.append(Group(len(members), width, torch.tensor(before, dtype=torch.long)))
        for member in members:
            first, length = begin[member], len(tree.pieces[member])
            places[first : first + length] = range(len(slots), len(slots) + length)
            filling += range(len(slots) + length, len(slots) + width)
            slots += [*range(first, first + length), *[first] * (width - length)]
    return Line(tuple(groups), torch.tensor(slots), torch.tensor(places), torch.tensor(filling, dtype=torch.long))


def _groups(tree: Tree) -> list[tuple[int | None, list[int]]]:
    """Pieces behind the same piece and of like length together."""
    below: dict[int | None, list[int]] = {}
    for number, piece in enumerate(tree.pieces):
        below.setdefault(piece.parent, []).append(number)
    found: list[tuple[int | None, list[int]]] = []
    for parent, members in below.items():
        group: list[int] = []
        for member in sorted(members, key=lambda number: (-len(tree.pieces[number]), number)):
            short = group and len(tree.pieces[member]) < LENGTH_SLACK * len(tree.pieces[group[0]])
            if short and len(group) >= FEW_PIECES:
                found.append((parent, group))
                group = []
            group.append(member)
        found.append((parent, group))
    return found


def flat_positions(tree: Tree, row: int, positions: Sequence[int]) -> list[int]:
    """Where tokens of a row (by their positions in it, rising) stand in the line."""
    begin = starts(tree)
    found: list[int] = []
    path = [(tree.pieces[piece], begin[piece]) for piece in tree.path(tree.leaves[row])]
    for position in positions:
        piece, first = next(pair for pair in path if pair[0].start <= position < pair[0].end)
        found.append(first + position - piece.start)
    return found
