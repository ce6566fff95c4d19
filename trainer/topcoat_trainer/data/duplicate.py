"""Rows that say the same: exactly (by digest) or nearly (MinHash over letters). Samples so that it takes seconds."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from topcoat_trainer.example import Example

SHINGLE_CHARACTERS = 5
LOOKED_AT_CHARACTERS = 1000
PERMUTATIONS = 64
ALIKE = 0.85
MOST_TRAINING_ROWS = 4000
MOST_HELD_OUT_ROWS = 500


def distinct(examples: Iterable[Example]) -> tuple[tuple[Example, ...], tuple[tuple[int, int], ...]]:
    """The first row of each content, and the repeats as (row, row of the first)."""
    first: dict[str, int] = {}
    kept: list[Example] = []
    repeats: list[tuple[int, int]] = []
    for row in examples:
        earlier = first.setdefault(row.digest, row.row)
        if earlier == row.row:
            kept.append(row)
        else:
            repeats.append((row.row, earlier))
    return tuple(kept), tuple(repeats)


def shared(train: Iterable[Example], holdout: Iterable[Example]) -> tuple[tuple[int, int], ...]:
    """Held-out rows that stand in the training set too, as (held-out row, training row)."""
    known = {row.digest: row.row for row in train}
    return tuple((row.row, known[row.digest]) for row in holdout if row.digest in known)


def question(row: Example) -> str:
    """What a row asks: its last user turn, or its text."""
    asked = (turn.content for turn in reversed(row.messages) if turn.role == "user")
    return row.text if row.text is not None else next(asked, "")


def near(train: Sequence[Example], holdout: Sequence[Example]) -> tuple[tuple[int, int], ...]:
    """Held-out rows whose question is very like a training row's, as (held-out row, training row). A sample only."""
    from datasketch import MinHashLSH

    index: Any = MinHashLSH(threshold=ALIKE, num_perm=PERMUTATIONS)
    learnt = _sample(train, MOST_TRAINING_ROWS)
    sketches = [_sketch(question(row)) for row in learnt]
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch)
    found: list[tuple[int, int]] = []
    for row in _sample(holdout, MOST_HELD_OUT_ROWS):
        sketch = _sketch(question(row))
        alike = [number for number in index.query(sketch) if sketch.jaccard(sketches[number]) >= ALIKE]
        if alike:
            found.append((row.row, learnt[min(alike)].row))
    return tuple(found)


def _sample(rows: Sequence[Example], most: int) -> list[Example]:
    """Those with the smallest digests: a fair sample that is the same every time."""
    if len(rows) <= most:
        return list(rows)
    return sorted(rows, key=lambda row: row.digest)[:most]


def _sketch(text: str) -> Any:
    from datasketch import MinHash

    words = " ".join(text.lower().split())[:LOOKED_AT_CHARACTERS]
    pieces = {words[at : at + SHINGLE_CHARACTERS] for at in range(max(1, len(words) - SHINGLE_CHARACTERS + 1))}
    sketch: Any = MinHash(num_perm=PERMUTATIONS, hashfunc=zlib.crc32)
    sketch.update_batch([piece.encode("utf-8", "replace") for piece in sorted(pieces)])
    return sketch
