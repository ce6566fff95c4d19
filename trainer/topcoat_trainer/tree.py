"""What rows have in common from their first token on, as a tree of pieces: each piece is to be computed once only.

Causal attention makes a shared beginning's states the same in every row that has it. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Ids = Sequence[int]
WORTH_TOKENS = 8
"""Tokens that a shared piece must save: attending one more piece apart costs about as much as computing a few."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens [start, end) of row `row`, which every row below begins with. `parent`: the piece before it, if any."""

    row: int
    start: int
    end: int
    parent: int | None

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Tree:
    """Pieces, parents before children, and for each row the last of its pieces (None: the row is empty)."""

    pieces: tuple[Piece, ...]
    leaves: tuple[int | None, ...]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.pieces))

    def path(self, piece: int | None) -> list[int]:
        """The piece and all before it, first token first."""
        found: list[int] = []
        while piece is not None:
            found.append(piece)
            piece = self.pieces[piece].parent
        return found[::-1]


def grow(rows: Sequence[Ids], worth_tokens: int = WORTH_TOKENS) -> Tree:
    """The tree of the rows. A beginning is shared where that saves `worth_tokens` tokens or more."""
    ids = [tuple(row) for row in rows]
    pieces: list[Piece] = []
    leaves: list[int | None] = [None] * len(ids)
    # Groups of rows that agree in the tokens up to `depth`, which are in `parent` and its ancestors.
    open_groups: list[tuple[list[int], int, int | None]] = []
    if ids:
        open_groups.append((sorted(range(len(ids)), key=lambda row: (ids[row], row)), 0, None))
    while open_groups:
        members, depth, parent = open_groups.pop()
        first, last = ids[members[0]], ids[members[-1]]
        # In lexical order every row lies between the first and the last, so what these share, all share.
        common = agreement(first, last)
        if len(members) == 1 or (len(members) - 1) * (common - depth) >= worth_tokens:
            if common > depth:
                pieces.append(Piece(members[0], depth, common, parent))
                parent, depth = len(pieces) - 1, common
            ended = [row for row in members if len(ids[row]) == depth]
            for row in ended:
                leaves[row] = parent
            members = members[len(ended) :]
        open_groups += reversed([(group, depth, parent) for group in _branches(ids, members, common)])
    return Tree(tuple(pieces), tuple(leaves))


def agreement(first: Ids, last: Ids) -> int:
    """Tokens that both begin with."""
    for place, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return place
    return min(len(first), len(last))


def _branches(ids: list[tuple[int, ...]], members: list[int], common: int) -> Iterator[list[int]]:
    """Rows that agree in one token more, in order; rows that end here stay alone, since they are not worth sharing."""
    group: list[int] = []
    for row in members:
        if len(ids[row]) == common:
            yield [row]
        elif group and ids[group[0]][common] == ids[row][common]:
            group.append(row)
        else:
            if group:
                yield group
            group = [row]
    if group:
        yield group
