"""Which rows make a step, and how they become tensors: in one line, packed into shared sequences, or padded.

Order follows from (seed, epoch) alone, so a resumed run replays the same steps. Rows in one sequence never see one
another: position ids restart at each row, and with no attention mask given, transformers makes the mask block-diagonal.
In a line (line.py), what rows begin with in common stands once, and what nothing is learnt from does not stand at all.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from topcoat_trainer import line as lines
from topcoat_trainer import tree as trees
from topcoat_trainer.example import TokenRow
from topcoat_trainer.line import Line


@functools.lru_cache(maxsize=2)
def permutation(rows: int, seed: int, epoch: int) -> tuple[int, ...]:
    """The order of the rows in an epoch. Python's shuffle is the same on every machine and version."""
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return tuple(order)


@dataclass(frozen=True, slots=True)
class Order:
    """Which rows each optimizer step learns from. The last step of an epoch takes what is left."""

    rows: int
    rows_per_step: int
    epochs: int
    seed: int
    max_steps: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.rows // self.rows_per_step)

    @property
    def total_steps(self) -> int:
        return min(self.epochs * self.steps_per_epoch, self.max_steps or self.epochs * self.steps_per_epoch)

    def of_step(self, step: int) -> tuple[int, ...]:
        """Indices of the rows of a step (counted from 0)."""
        epoch, part = divmod(step, self.steps_per_epoch)
        start = part * self.rows_per_step
        return permutation(self.rows, self.seed, epoch)[start : start + self.rows_per_step]

    def epochs_done(self, steps: int) -> float:
        """Passes over the rows after so many steps."""
        epoch, part = divmod(steps, self.steps_per_epoch)
        return epoch + min(1.0, part * self.rows_per_step / self.rows)


@dataclass(frozen=True, slots=True)
class Portion:
    """How much goes through the model at once: rows and tokens (filling included), whichever is reached first."""

    rows: int
    tokens: int

    def halved(self, largest: int) -> Portion:
        """Half of the largest portion that this one allowed."""
        return replace(self, rows=max(1, largest // 2))

    def parts(self, rows: Sequence[TokenRow], chosen: Sequence[int]) -> list[list[int]]:
        """A step's rows in portions, rows of like length together; the order of equal lengths is that of `chosen`."""
        parts: list[list[int]] = []
        for row in sorted(chosen, key=lambda index: -len(rows[index].ids)):
            longest = len(rows[parts[-1][0]].ids) if parts else 0
            if parts and len(parts[-1]) < self.rows and (len(parts[-1]) + 1) * longest <= self.tokens:
                parts[-1].append(row)
            else:
                parts.append([row])
        return parts


@dataclass(frozen=True, slots=True)
class Segment:
    """Where tokens [offset, offset + length) of a row stand in a batch: from `start` on in a sequence."""

    row: int
    sequence: int
    start: int
    length: int
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows as tensors. `selected` are the flat positions whose next token is learnt, `targets` those tokens."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    selected: torch.Tensor
    targets: torch.Tensor
    segments: tuple[Segment, ...]
    paths: Mapping[int, tuple[Segment, ...]] = field(default_factory=dict)
    """For each row the segments that it is read from, in order."""
    line: Line | None = None
    """What sees what, where the rows stand in one line."""

    @property
    def tokens(self) -> int:
        """Tokens that are computed, without filling."""
        return sum(segment.length for segment in self.segments)

    def row_states(self, states: torch.Tensor, row: int) -> torch.Tensor:
        """A row's own states out of the whole batch's (sequences by tokens by size)."""
        path = self.paths[row]
        return torch.cat([states[part.sequence, part.start : part.start + part.length] for part in path])

    def inputs(self) -> dict[str, torch.Tensor]:
        """What the model's own forward takes."""
        given = {"input_ids": self.input_ids, "position_ids": self.position_ids, "attention_mask": self.attention_mask}
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    def to(self, device: torch.device) -> Batch:
        moved = {name: tensor.to(device) for name, tensor in self.inputs().items()}
        return Batch(
            input_ids=moved["input_ids"],
            position_ids=moved.get("position_ids"),
            attention_mask=moved.get("attention_mask"),
            selected=self.selected.to(device),
            targets=self.targets.to(device),
            segments=self.segments,
            paths=self.paths,
            line=self.line.to(device) if self.line else None,
        )


def _bins(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """First fit, longest first: which of the lengths share a sequence of `capacity` tokens."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = next((bin_ for bin_, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            bins.append([])
            room.append(capacity)
            place = len(bins) - 1
        bins[place].append(index)
        room[place] -= lengths[index]
    return bins


def batch(rows: Sequence[TokenRow], chosen: Sequence[int], *, packing: bool, width: int = 0) -> Batch:
    """Tensors of the chosen rows. A packed sequence is as long as the longest row, so packing never costs more."""
    lengths = [len(rows[index].ids) for index in chosen]
    width = max(width, *lengths)
    bins = _bins(lengths, width) if packing else [[index] for index in range(len(chosen))]
    input_ids = torch.zeros(len(bins), width, dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    mask = torch.zeros_like(input_ids)
    segments: list[Segment] = []
    selected: list[int] = []
    targets: list[int] = []
    for sequence, members in enumerate(bins):
        start = 0
        for member in members:
            row, end = rows[chosen[member]], start + lengths[member]
            input_ids[sequence, start:end] = torch.tensor(row.ids)
            position_ids[sequence, start:end] = torch.arange(lengths[member])
            mask[sequence, start:end] = 1
            learnt = [index for index in range(1, lengths[member]) if row.trained[index]]
            selected += [sequence * width + start + index - 1 for index in learnt]
            targets += [row.ids[index] for index in learnt]
            segments.append(Segment(chosen[member], sequence, start, lengths[member]))
            start = end
        # The filling is one more row of the sequence: nobody sees it, and no mask is needed to say so.
        position_ids[sequence, start:] = torch.arange(width - start)
    return Batch(
        input_ids=input_ids,
        position_ids=position_ids if packing else None,
        attention_mask=None if packing else mask,
        selected=torch.tensor(selected, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        segments=tuple(segments),
        paths={segment.row: (segment,) for segment in segments},
    )


def lined(rows: Sequence[TokenRow], chosen: Sequence[int], worth_tokens: int = trees.WORTH_TOKENS) -> Batch:
    """Tensors of the chosen rows in one line: shared beginnings once, and of each row only what must be read."""
    read = [rows[index].ids[: rows[index].read_tokens] for index in chosen]
    tree = trees.grow(read, worth_tokens)
    begin = lines.starts(tree)
    segments = [
        Segment(chosen[piece.row], 0, start, len(piece), piece.start)
        for piece, start in zip(tree.pieces, begin, strict=True)
    ]
    selected: list[int] = []
    targets: list[int] = []
    for member, index in enumerate(chosen):
        row = rows[index]
        learnt = [place for place in range(1, len(row.ids)) if row.trained[place]]
        selected += lines.flat_positions(tree, member, [place - 1 for place in learnt])
        targets += [row.ids[place] for place in learnt]
    pieces = [(read[piece.row], piece) for piece in tree.pieces]
    return Batch(
        input_ids=torch.tensor([[token for ids, piece in pieces for token in ids[piece.start : piece.end]]]),
        position_ids=torch.tensor([[place for _, piece in pieces for place in range(piece.start, piece.end)]]),
        attention_mask=None,
        selected=torch.tensor(selected, dtype=torch.long),
        targets=torch.tensor(targets, dtype=torch.long),
        segments=tuple(segments),
        paths={
            index: tuple(segments[piece] for piece in tree.path(tree.leaves[member]))
            for member, index in enumerate(chosen)
        },
        line=lines.line(tree),
    )


def learnt_tokens(rows: Sequence[TokenRow], chosen: Sequence[int]) -> int:
    """Tokens with loss; the first token of a row has nothing to be predicted from."""
    return sum(sum(rows[index].trained[1:]) for index in chosen)


# Rounding alone makes about 1e-6; state that leaks between rows may make less than 1e-4.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-8}
COARSE_TOLERANCE = 0.05


def misfit(model: nn.Module, rows: Sequence[TokenRow], outputs: Callable[[Batch], torch.Tensor]) -> str:
    """Why rows of this model cannot be packed; empty if they can. Three rows are computed both ways and compared.

    `outputs` gives the model's outputs at a batch's selected positions.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "the model takes no position ids"
    trial = _trial(rows)
    if len(trial) < 2:
        return ""
    packed = batch(trial, range(len(trial)), packing=True, width=sum(len(row.ids) for row in trial))
    order = [segment.row for segment in packed.segments]
    difference = _difference(model, outputs, packed, [batch(trial, [row], packing=False) for row in order])
    return f"packed rows differ from single ones by {difference:.1e}" if difference else ""


def line_misfit(model: nn.Module, rows: Sequence[TokenRow], outputs: Callable[[Batch], torch.Tensor]) -> str:
    """Why rows of this model cannot stand in one line; empty if they can. Two rows, and one that begins as the first
    and ends as the second, are computed both ways and compared.
    """
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "the model takes no position ids"
    trial = _trial(rows)
    if len(trial) > 1:
        first, last = trial[0], trial[-1]
        half, rest = len(first.ids) // 2, len(last.ids) // 2
        ids, trained = first.ids[:half] + last.ids[rest:], first.trained[:half] + last.trained[rest:]
        trial = [first, replace(first, ids=ids, trained=trained), last]
    line = lined(trial, range(len(trial)), worth_tokens=1)
    alone = [batch(trial, [row], packing=False) for row in range(len(trial))]
    difference = _difference(model, outputs, line, alone)
    return f"rows in one line differ from single ones by {difference:.1e}" if difference else ""


def _trial(rows: Sequence[TokenRow]) -> list[TokenRow]:
    """A few short rows that something is learnt from."""
    learnable = [index for index in range(len(rows)) if learnt_tokens(rows, [index])]
    return [rows[index] for index in sorted(learnable, key=lambda index: len(rows[index].ids))[:3]]


def _difference(
    model: nn.Module, outputs: Callable[[Batch], torch.Tensor], together: Batch, alone: Sequence[Batch]
) -> float:
    """How far outputs are apart, as a share of the largest; 0 within the tolerance."""
    with torch.no_grad():
        found = outputs(together).float()
        single = torch.cat([outputs(one).float() for one in alone])
    # The least scale is 1e-3, so that a model whose outputs are all near zero is not waved through.
    scale = float(single.abs().max().clamp_min(1e-3))
    difference = float((found - single).abs().max()) / scale
    tolerance = TOLERANCE.get(next(model.parameters()).dtype, COARSE_TOLERANCE)
    return 0.0 if difference <= tolerance else difference
