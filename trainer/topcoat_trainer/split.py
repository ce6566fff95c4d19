"""Which rows are held out. A row's side follows from a hash of its content or group, never from its place in a file.

When rows are added, no row ever moves from the training side to the held-out side, so that a version that learnt
from a row is never judged on it later. Groups never straddle.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from topcoat.api.dataset import Holdout
from topcoat_trainer.errors import DataError
from topcoat_trainer.example import Example

LARGEST_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Split:
    """Indices into the examples, in their order. `unused`: rest of a held-out group beyond holdout.maxSamples."""

    train: tuple[int, ...]
    holdout: tuple[int, ...]
    unused: tuple[int, ...]
    groups: int
    rule: str
    digest: str


def holdout_digest(examples: Iterable[Example]) -> str:
    """SHA-256 over the held-out rows' digests, whatever their order."""
    return hashlib.sha256("\n".join(sorted(row.digest for row in examples)).encode()).hexdigest()


def split(examples: Sequence[Example], holdout: Holdout) -> Split:
    """Sets rows aside: the groups (or rows) whose hash is smallest, until the fraction and both bounds are met."""
    grouped = holdout.group_by is not None
    members: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(examples):
        members[(row.group or "") if grouped else row.digest].append(index)
    order = sorted(members, key=lambda key: (_place(holdout.seed, key), key))
    _check_enough(len(examples), len(order), holdout)
    held = _held_out(order, members, holdout)
    rows = [index for key in held for index in members[key]]
    if len(rows) > len(examples) * LARGEST_SHARE:
        raise _too_few(len(examples), len(order), holdout)
    scored = rows if len(rows) <= holdout.max_samples else _thinned(examples, rows, holdout)
    apart, kept = set(rows), set(scored)
    return Split(
        train=tuple(index for index in range(len(examples)) if index not in apart),
        holdout=tuple(sorted(kept)),
        unused=tuple(sorted(apart - kept)),
        groups=len(held),
        rule=_rule(holdout, len(kept), len(held)),
        digest=holdout_digest(examples[index] for index in kept),
    )


def _place(seed: int, key: str) -> float:
    """A number in [0, 1) that depends on the seed and the key alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}\n{key}".encode()).digest()[:7], "big") / (1 << 56)


def _held_out(order: Sequence[str], members: dict[str, list[int]], holdout: Holdout) -> list[str]:
    """A prefix of the order. Each bound is on the rows so far, so more rows can only make the prefix shorter."""
    held: list[str] = []
    rows = 0
    fraction = float(holdout.fraction)
    for key in order:
        if rows >= holdout.max_samples or (rows >= holdout.min_samples and _place(holdout.seed, key) >= fraction):
            break
        held.append(key)
        rows += len(members[key])
    return held


def _thinned(examples: Sequence[Example], rows: Sequence[int], holdout: Holdout) -> list[int]:
    """Of the groups only so many rows as are scored; the rest of them is not trained on either."""
    chosen = sorted(rows, key=lambda index: _place(holdout.seed, examples[index].digest))
    return chosen[: holdout.max_samples]


def _check_enough(rows: int, groups: int, holdout: Holdout) -> None:
    if holdout.group_by is not None and groups < 2:
        raise DataError(
            f"all {rows:,} rows have one group, and groups never straddle the split",
            hint="choose another dataset.holdout.groupBy, leave it out, or give dataset.evaluation",
        )
    if rows < 2 * holdout.min_samples:
        raise _too_few(rows, groups, holdout)


def _too_few(rows: int, groups: int, holdout: Holdout) -> DataError:
    in_groups = f" in {groups:,} groups" if holdout.group_by is not None else ""
    return DataError(
        f"too few rows to hold any out: {rows:,} usable, distinct rows{in_groups}; "
        f"holdout.minSamples {holdout.min_samples} would take more than half of them",
        hint="add rows, lower dataset.holdout.minSamples (10 at least), or give dataset.evaluation",
    )


def _rule(holdout: Holdout, rows: int, groups: int) -> str:
    what = f"{rows:,} rows in {groups:,} whole groups of {holdout.group_by}" if holdout.group_by else f"{rows:,} rows"
    by = "group" if holdout.group_by else "content"
    return (
        f"{what}, chosen by a hash of the {by} (seed {holdout.seed}): {float(holdout.fraction):.0%}, "
        f"at least {holdout.min_samples}, at most {holdout.max_samples}"
    )
