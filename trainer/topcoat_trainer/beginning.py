"""How much of a set of rows is the same from the start: a system prompt, a block of examples. Pure; without torch."""

from __future__ import annotations

from collections.abc import Sequence

Ids = Sequence[int]


def shared_length(rows: Sequence[Ids], ends: Sequence[int] | None = None) -> int:
    """How many tokens all rows begin with. At least one token of every row (or of `row[:end]`) stays its own."""
    if len(rows) < 2:
        return 0
    limit = min(ends or [len(row) for row in rows]) - 1
    # Every row lies between the two extremes in lexical order, so what these share, all share.
    first, last = min(map(tuple, rows)), max(map(tuple, rows))
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return max(0, min(same, limit))
