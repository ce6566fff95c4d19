"""The states of a set of rows at the boundary: filled in portions, kept by name, put into a batch.

Names do not say where states are kept: memory (`Memory`) or a volume (shelf.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from topcoat_trainer import tree as trees
from topcoat_trainer.batches import Batch
from topcoat_trainer.cache.shelf import name
from topcoat_trainer.errors import OutOfMemory, TrainerError
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.ranks import Ranks
from topcoat_trainer.tree import Piece
from topcoat_trainer.view import Kind, View

FILL_TOKENS = 4096
# Tokens that must be saved before what rows begin with is kept apart from what follows.
SHARED_TOKENS = 256
LENGTH_SLACK = 0.8
Progress = Callable[[int, int], None]
Ids = tuple[int, ...]


class Kept(Protocol):
    """Where states are kept, by name. `find` gives None for what is not there; what was put is found after `flush`, and
    what other processes have flushed after `refresh`.
    """

    def find(self, entry_name: bytes, /) -> torch.Tensor | None: ...

    def put(self, entry_name: bytes, states: torch.Tensor, /) -> None: ...

    def flush(self) -> None: ...

    def refresh(self) -> None: ...

    def read_ahead(self, names: Iterable[bytes], /) -> None: ...


class Memory:
    """States in this process's memory."""

    def __init__(self) -> None:
        self._states: dict[bytes, torch.Tensor] = {}

    def find(self, entry_name: bytes, /) -> torch.Tensor | None:
        return self._states.get(entry_name)

    def put(self, entry_name: bytes, states: torch.Tensor, /) -> None:
        self._states[entry_name] = states.detach().cpu().clone()

    def flush(self) -> None:
        """Nothing waits."""

    def refresh(self) -> None:
        """Nobody else writes."""

    def read_ahead(self, names: Iterable[bytes], /) -> None:
        """All is there."""


class BoundaryCache:
    """The states of rows at one boundary, tokens by hidden size, unpadded.

    What many rows begin with is kept once. States kept under a name end where its tokens end; those before them are
    found under the name of the tokens before. So rows that come later find what is there, however they are shared.
    """

    def __init__(self, halves: Halves, view: View, kept: Kept | None = None) -> None:
        self.halves = halves
        self.view = view
        # An empty shelf is false, and still the one that is meant.
        self.kept: Kept = Memory() if kept is None else kept
        self._rows: list[Ids] = []
        self._paths: dict[Ids, list[tuple[int, int, bytes]]] = {}

    @property
    def tokens(self) -> int:
        """Of the rows, what they share counted once."""
        lengths = {entry: end - start for path in self._paths.values() for start, end, entry in path}
        return sum(lengths.values())

    @property
    def size_bytes(self) -> int:
        first = next((path[0][2] for path in self._paths.values() if path), None)
        states = None if first is None else self.kept.find(first)
        return 0 if states is None else self.tokens * states.shape[1] * states.element_size()

    def missing(self, rows: Sequence[TokenRow]) -> list[TokenRow]:
        """Of the rows, one of each kind that is not kept."""
        distinct = {ids: row for row in rows if (ids := self.view.ids(row))}
        return [row for ids, row in distinct.items() if self._path(ids) is None]

    def hold(self, rows: Sequence[TokenRow]) -> None:
        """From here on `states`, `hidden` and `around` speak of these rows. All must be kept."""
        self._rows = [self.view.ids(row) for row in rows]
        for ids in self._rows:
            path = self._path(ids)
            if path is None:
                raise TrainerError("states that were just kept are not there")
            self._paths[ids] = path

    def fill(self, rows: Sequence[TokenRow], progress: Progress = lambda _, __: None) -> None:
        """Computes and keeps what is missing of the rows, and holds them."""
        fill([self], self.missing(rows), progress=progress)
        self.hold(rows)

    def _path(self, ids: Ids) -> list[tuple[int, int, bytes]] | None:
        """A row's states in pieces: first token, end, name. None where one is missing."""
        found: list[tuple[int, int, bytes]] = []
        end = len(ids)
        while end:
            entry = name(ids[:end])
            states = self.kept.find(entry)
            if states is None or not 0 < len(states) <= end:
                return None
            found.append((end - len(states), end, entry))
            end -= len(states)
        return found[::-1]

    def read_ahead(self, rows: Sequence[int]) -> None:
        """These rows come next: a volume may read them now."""
        self.kept.read_ahead(list(dict.fromkeys(entry for row in rows for _, _, entry in self._paths[self._rows[row]])))

    def _pieces(self, row: int) -> list[tuple[int, torch.Tensor]]:
        """The row's states in pieces, each with the position of its first token. What was spoilt is computed again."""
        found = [(start, self.kept.find(entry)) for start, _, entry in self._paths[self._rows[row]]]
        whole = [(start, states) for start, states in found if states is not None]
        if len(whole) == len(found):
            return whole
        self._mend(row)
        return self._pieces(row)

    def _mend(self, row: int) -> None:
        ids = self._rows[row]
        whole = TokenRow(ids, (False,) * len(ids), 0, Example(0))
        batch = View(self.view.model, Kind.PADDED).batch([whole], [0]).to(self.halves.model.device)
        self.kept.put(name(ids), self.halves.capture(batch.inputs())[0])
        self.kept.flush()
        found = self._path(ids)
        if found is None:
            raise TrainerError("states that were just kept are not there")
        self._paths[ids] = found

    def states(self, row: int) -> torch.Tensor:
        """The row's states, tokens by hidden size."""
        return torch.cat([states for _, states in self._pieces(row)])

    def hidden(self, batch: Batch) -> torch.Tensor:
        """The states of a batch's tokens, on the model's device, zeros where it is filled up."""
        model = self.halves.model
        for row, path in batch.paths.items():
            if sum(part.length for part in path) != len(self._rows[row]):
                raise TrainerError("the batch's rows are not those of the cache")
        sequences, width = batch.input_ids.shape
        hidden: torch.Tensor | None = None
        for segment in batch.segments:
            end = segment.offset + segment.length
            for start, states in self._pieces(segment.row):
                if hidden is None:
                    hidden = torch.zeros(sequences, width, states.shape[1], dtype=states.dtype)
                low, high = max(start, segment.offset), min(start + len(states), end)
                if low < high:
                    place = segment.start + low - segment.offset
                    hidden[segment.sequence, place : place + high - low] = states[low - start : high - start]
        if hidden is None:
            raise TrainerError("a batch without tokens")
        return hidden.to(model.device)

    @contextmanager
    def around(self, batch: Batch) -> Iterator[PreTrainedModel]:
        """Inside it the model's forward of this batch begins at the boundary."""
        with self.halves.injected(self.hidden(batch)) as model:
            yield model


def fill(
    caches: Sequence[BoundaryCache],
    rows: Sequence[TokenRow],
    *,
    tokens: int = FILL_TOKENS,
    progress: Progress = lambda _, __: None,
    ranks: Ranks | None = None,
) -> None:
    """Computes and keeps the states of distinct rows: one pass fills all caches, whose boundaries rise.

    The portions follow from the rows alone, so the same rows give the same bits, however often it is begun; portions
    whose states are there are left out. Several ranks compute one each at a time, and all get all states.
    """
    ranks = ranks or Ranks()
    deepest = caches[-1]
    ids = [deepest.view.ids(row) for row in rows]
    pieces: dict[int, list[Piece]] = {}
    for piece in trees.grow(ids, SHARED_TOKENS).pieces:
        pieces.setdefault(piece.row, []).append(piece)
    done = 0
    turns: list[_Turn] = []
    for members in portions(ids, tokens, lined=deepest.view.kind is Kind.LINE):
        wanted = [
            _Wanted(name(ids[row][: piece.end]), row, piece.start, piece.end)
            for row in members
            for piece in pieces.get(row, ())
        ]
        lacks = any(cache.kept.find(want.entry) is None for cache in caches for want in wanted)
        if ranks.add_up((), float(lacks)):
            turns.append(_Turn(members, wanted))
        done += len(members)
        if len(turns) == ranks.size or done == len(rows):
            _round(caches, rows, turns, ranks)
            turns = []
            progress(done, len(rows))


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A piece of a row that is to be kept, and under which name."""

    entry: bytes
    row: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Turn:
    """One pass over rows, and what is to be kept of it."""

    members: list[int]
    wanted: list[_Wanted]


def _round(caches: Sequence[BoundaryCache], rows: Sequence[TokenRow], turns: Sequence[_Turn], ranks: Ranks) -> None:
    """At most one portion for each rank, computed at the same time; then all get all of them."""
    found = _run(caches, rows, turns[ranks.rank].members) if ranks.rank < len(turns) else []
    for rank, turn in enumerate(turns):
        for number, cache in enumerate(caches):
            states = found[number] if rank == ranks.rank else None
            _keep(cache, turn.wanted, states, (rank, ranks))


def _keep(
    cache: BoundaryCache, wanted: Sequence[_Wanted], states: dict[int, torch.Tensor] | None, source: tuple[int, Ranks]
) -> None:
    """Keeps what one rank computed: `states`, where that is this one. A volume that ranks share gets it once."""
    rank, ranks = source
    if states is not None:
        own = [states[want.row][want.start : want.end] for want in wanted]
        _put(cache.kept, wanted, own)
        if not ranks.alone:
            ranks.copy_from(rank, torch.cat(own))
        return
    told = ranks.copy_from(rank, None)
    if told is not None:
        cache.kept.refresh()
        _put(cache.kept, wanted, told.split([want.end - want.start for want in wanted]))


def _put(kept: Kept, wanted: Sequence[_Wanted], states: Sequence[torch.Tensor]) -> None:
    for want, own in zip(wanted, states, strict=True):
        if kept.find(want.entry) is None:
            kept.put(want.entry, own)
    kept.flush()


def _run(
    caches: Sequence[BoundaryCache], rows: Sequence[TokenRow], members: list[int]
) -> list[dict[int, torch.Tensor]]:
    """For each cache, states of rows, from one pass in the form in which the model takes them; halved where memory
    runs out.
    """
    view, halves = caches[-1].view, caches[-1].halves
    batch = view.batch(rows, members)
    moved = batch.to(halves.model.device)
    try:
        with view.reading(moved):
            hidden = halves.capture_all(moved.inputs(), [cache.halves.edge.first_trained for cache in caches[:-1]])
    except torch.OutOfMemoryError as error:
        if len(members) == 1:
            length = len(view.ids(rows[members[0]]))
            raise OutOfMemory(f"a row of {length} tokens does not fit through the frozen layers") from error
        half = len(members) // 2
        parts = [_run(caches, rows, part) for part in (members[:half], members[half:])]
        return [{**first, **second} for first, second in zip(*parts, strict=True)]
    return [{member: batch.row_states(states, member) for member in members} for states in hidden]


def portions(rows: Sequence[Ids], tokens: int, *, lined: bool) -> Iterator[list[int]]:
    """Rows in portions of so many tokens: in a line, rows that begin alike together, which counts once; else rows of
    like length, longest first, so that memory is short at once or never.
    """
    portion: list[int] = []
    size = 0
    for row in sorted(range(len(rows)), key=lambda row: rows[row] if lined else (-len(rows[row]), row)):
        length = len(rows[row])
        if lined:
            cost = length - (trees.agreement(rows[portion[-1]], rows[row]) if portion else 0)
            apart = False
        else:
            cost = len(rows[portion[0]]) if portion else length
            apart = length < cost * LENGTH_SLACK
        if portion and (size + cost > tokens or apart):
            yield portion
            portion, size, cost = [], 0, length
        portion.append(row)
        size += cost
    if portion:
        yield portion
