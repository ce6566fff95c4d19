"""The boundary cache: what the frozen layers give for each row, computed once, kept in memory, used in every epoch.

Exact or not used: `open_cache` compares whole and split on real rows first. Whoever trains need not know of it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from transformers import PreTrainedModel

from topcoat.api.training import CacheMedium, CacheMode
from topcoat_trainer import tree as trees
from topcoat_trainer.batches import Batch
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import OutOfMemory, TrainerError, UserInputError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves, difference
from topcoat_trainer.tree import Piece
from topcoat_trainer.view import Kind, View

logger = logging.getLogger(__name__)

FILL_TOKENS = 4096
CHECK_TOKENS = 192
# Tokens that must be saved before what rows begin with is kept apart from what follows.
SHARED_TOKENS = 256
CHECK_AMONG = 64
MEMORY_SHARE = 0.5
# A row's state is the same number however it was batched, up to the order of summation inside a kernel.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
LENGTH_SLACK = 0.8
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Demand:
    """What the decision about a cache depends on. `tokens`: of all rows that will be read again and again."""

    boundary: Boundary
    hidden_size: int
    tokens: int
    epochs: float
    dtype: torch.dtype = torch.float32
    mode: CacheMode = CacheMode.AUTO
    medium: CacheMedium = CacheMedium.AUTO
    limit_bytes: int | None = None
    available_bytes: int = 0


@dataclass(frozen=True, slots=True)
class CachePlan:
    """Whether to cache, why, and how much memory it takes."""

    use: bool
    reason: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What a cache is like. `exact`: a batch split gives the same bits as whole. `difference`: largest difference of
    logits when rows were filled in other company than they are trained in, as a share of the largest logit.
    """

    used: bool
    reason: str
    rows: int = 0
    tokens: int = 0
    size_bytes: int = 0
    fill_seconds: float = 0.0
    exact: bool = False
    difference: float = 0.0
    tolerance: float = 0.0


def plan(demand: Demand) -> CachePlan:
    """The decision, before anything is computed. `Enabled` fails where `Auto` does without."""
    size = demand.tokens * demand.hidden_size * demand.dtype.itemsize
    against = _against(demand, size)
    if against and demand.mode is CacheMode.ENABLED:
        raise UserInputError(
            f"the activation cache cannot be used: {against}",
            where="training.activationCache.mode",
            hint="set activationCache.mode to Auto, or change what stands in its way",
        )
    skipped = demand.boundary.first_trained
    why = against or f"{skipped} of {demand.boundary.total} layers run once per row instead of {demand.epochs:g} times"
    return CachePlan(not against, why, size)


def _against(demand: Demand, size: int) -> str:
    free = int(demand.available_bytes * MEMORY_SHARE)
    limit = size if demand.limit_bytes is None else demand.limit_bytes
    table = (
        (demand.mode is CacheMode.DISABLED, "activationCache.mode is Disabled"),
        (demand.boundary.first_trained == 0, "every layer trains"),
        (demand.epochs <= 1 and demand.mode is not CacheMode.ENABLED, "each row is read once only"),
        (
            demand.medium is CacheMedium.VOLUME,
            "activations are kept in memory only, but activationCache.medium is Volume",
        ),
        (size > limit, f"it needs {_mebibytes(size)}, and activationCache.sizeLimit is {_mebibytes(limit)}"),
        (size > free, f"it needs {_mebibytes(size)}, and {_mebibytes(free)} of memory may be used"),
    )
    return next((reason for holds, reason in table if holds), "")


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"


class Kept(Protocol):
    """Where states are kept, by name. `find` gives None for what is not there."""

    def find(self, name: bytes) -> torch.Tensor | None: ...

    def put(self, name: bytes, states: torch.Tensor) -> None: ...


class Memory:
    """States in this process's memory."""

    def __init__(self) -> None:
        self._states: dict[bytes, torch.Tensor] = {}

    def find(self, name: bytes) -> torch.Tensor | None:
        return self._states.get(name)

    def put(self, name: bytes, states: torch.Tensor) -> None:
        self._states[name] = states.detach().cpu().clone()


def name(ids: tuple[int, ...]) -> bytes:
    """What states are kept under: the digest of all tokens up to their last one."""
    return hashlib.sha256(array("q", ids).tobytes()).digest()


class BoundaryCache:
    """The states of a set of rows at the boundary, tokens by hidden size, unpadded.

    What many rows begin with is kept once. States kept under a name end where its tokens end; those before them are
    found under the name of the tokens before. So rows that come later find what is there, however they are shared.
    """

    def __init__(self, halves: Halves, view: View, kept: Kept | None = None) -> None:
        self.halves = halves
        self.view = view
        self._kept = kept or Memory()
        self._rows: list[list[tuple[int, torch.Tensor]]] = []
        self.tokens = 0
        self.size_bytes = 0

    def fill(
        self, rows: Sequence[TokenRow], batch_tokens: int = FILL_TOKENS, progress: Progress = lambda _, __: None
    ) -> None:
        """Computes and keeps the states of the rows that are not kept yet. A portion too large for memory is halved."""
        distinct = {ids: row for row in rows if (ids := self.view.ids(row))}
        missing = [row for ids, row in distinct.items() if self._found(ids) is None]
        tree = trees.grow([self.view.ids(row) for row in missing], SHARED_TOKENS)
        pieces: dict[int, list[Piece]] = {}
        for piece in tree.pieces:
            pieces.setdefault(piece.row, []).append(piece)
        done = 0
        for members in _portions(
            [self.view.ids(row) for row in missing], batch_tokens, lined=self.view.kind is Kind.LINE
        ):
            self._run(missing, members, pieces)
            done += len(members)
            progress(done, len(missing))
        self._remember(rows)

    def _run(self, rows: Sequence[TokenRow], members: list[int], pieces: Mapping[int, list[Piece]]) -> None:
        """One pass over rows, in the form in which the model takes them."""
        batch = self.view.batch(rows, members)
        moved = batch.to(self.halves.model.device)
        try:
            with self.view.reading(moved):
                hidden = self.halves.capture(moved.inputs())
        except torch.OutOfMemoryError as error:
            if len(members) == 1:
                tokens = len(self.view.ids(rows[members[0]]))
                raise OutOfMemory(f"a row of {tokens} tokens does not fit through the frozen layers") from error
            self._run(rows, members[: len(members) // 2], pieces)
            self._run(rows, members[len(members) // 2 :], pieces)
            return
        for member in members:
            ids = self.view.ids(rows[member])
            for piece in pieces.get(member, ()):
                states = batch.row_states(hidden, member)
                self._kept.put(name(ids[: piece.end]), states[piece.start : piece.end])

    def _found(self, ids: tuple[int, ...]) -> list[tuple[int, torch.Tensor]] | None:
        """A row's states in pieces, each with the position of its first token; None where one is missing."""
        found: list[tuple[int, torch.Tensor]] = []
        end = len(ids)
        while end:
            states = self._kept.find(name(ids[:end]))
            if states is None or not 0 < len(states) <= end:
                return None
            end -= len(states)
            found.append((end, states))
        return found[::-1]

    def _remember(self, rows: Sequence[TokenRow]) -> None:
        pieces: dict[int, torch.Tensor] = {}
        self._rows = []
        for row in rows:
            found = self._found(self.view.ids(row))
            if found is None:
                raise TrainerError("states that were just kept are not there")
            self._rows.append(found)
            pieces.update({id(states): states for _, states in found})
        self.tokens = sum(map(len, pieces.values()))
        self.size_bytes = sum(states.numel() * states.element_size() for states in pieces.values())

    def states(self, row: int) -> torch.Tensor:
        """The row's states, tokens by hidden size."""
        return torch.cat([states for _, states in self._rows[row]])

    def hidden(self, batch: Batch) -> torch.Tensor:
        """The states of a batch's tokens, on the model's device, zeros where it is filled up."""
        model = self.halves.model
        sequences, width = batch.input_ids.shape
        first = next(states for pieces in self._rows for _, states in pieces)
        hidden = torch.zeros(sequences, width, first.shape[1], dtype=first.dtype)
        for row, path in batch.paths.items():
            if sum(part.length for part in path) != sum(len(states) for _, states in self._rows[row]):
                raise TrainerError("the batch's rows are not those of the cache")
        for segment in batch.segments:
            end = segment.offset + segment.length
            for start, states in self._rows[segment.row]:
                low, high = max(start, segment.offset), min(start + len(states), end)
                if low < high:
                    place = segment.start + low - segment.offset
                    hidden[segment.sequence, place : place + high - low] = states[low - start : high - start]
        return hidden.to(model.device)

    @contextmanager
    def around(self, batch: Batch) -> Iterator[PreTrainedModel]:
        """Inside it the model's forward of this batch begins at the boundary."""
        with self.halves.injected(self.hidden(batch)) as model:
            yield model


def _portions(rows: list[tuple[int, ...]], batch_tokens: int, *, lined: bool) -> Iterator[list[int]]:
    """Rows in portions of so many tokens: in a line, rows that begin alike together, which counts once; else rows of
    like length, longest first, so that memory is short at once or never.
    """
    portion: list[int] = []
    tokens = longest = 0
    order = sorted(range(len(rows)), key=lambda row: rows[row] if lined else -len(rows[row]))
    for row in order:
        if lined:
            cost = len(rows[row]) - (trees.agreement(rows[portion[-1]], rows[row]) if portion else 0)
            full = tokens + cost > batch_tokens
        else:
            longest = len(rows[portion[0]]) if portion else len(rows[row])
            cost = longest
            full = tokens + cost > batch_tokens or len(rows[row]) < longest * LENGTH_SLACK
        if portion and full:
            yield portion
            portion, tokens, cost = [], 0, len(rows[row])
        portion.append(row)
        tokens += cost
    if portion:
        yield portion


def open_cache(
    halves: Halves, rows: Sequence[TokenRow], view: View, progress: Progress = lambda _, __: None
) -> tuple[BoundaryCache | None, CacheReport]:
    """A filled cache after a self-check on the rows' first, or None with the reason; training then goes on without."""
    tolerance = TOLERANCE.get(halves.model.dtype, 1e-4)
    try:
        split, kept = _self_check(halves, rows, view)
    except TrainerError as error:
        return None, CacheReport(False, f"the self-check failed: {error.message}")
    except Exception as error:  # any family may break in its own way, and a cache is never worth a failed run
        logger.info("activation cache: the self-check failed", exc_info=True)
        return None, CacheReport(False, f"the self-check failed ({type(error).__name__}); this family cannot be split")
    report = CacheReport(False, "", exact=split == 0, difference=max(split, kept), tolerance=tolerance)
    if split > tolerance:
        return None, replace(report, reason=f"the split pass differs from the whole one by {split:.1e}")
    if kept > tolerance:
        return None, replace(report, reason=f"rows of one batch influence one another, by {kept:.1e}")
    began = time.perf_counter()
    cache = BoundaryCache(halves, view)
    cache.fill(rows, progress=progress)
    seconds = time.perf_counter() - began
    return cache, replace(
        report,
        used=True,
        reason="the self-check passed",
        rows=len(rows),
        tokens=cache.tokens,
        size_bytes=cache.size_bytes,
        fill_seconds=seconds,
    )


def _self_check(halves: Halves, rows: Sequence[TokenRow], view: View) -> tuple[float, float]:
    """How far one batch's logits are apart, whole and split: first with the state caught from that very batch (0: the
    bits are equal), then with states filled as the cache fills them.
    """
    chosen = _sample(rows)
    few = [rows[index] for index in chosen]
    batch = view.batch(few, range(len(few))).to(halves.model.device)
    alone = BoundaryCache(halves, view)
    alone.fill(few)
    real = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
    for segment in batch.segments:
        real[segment.sequence, segment.start : segment.start + segment.length] = True
    training = [module for module in halves.model.modules() if module.training]
    halves.model.eval()
    try:
        with torch.no_grad(), view.reading(batch):
            whole = _logits(halves.model, batch)[real]
            with halves.injected(halves.capture(batch.inputs())) as model:
                split = _logits(model, batch)[real]
            with alone.around(batch) as model:
                kept = _logits(model, batch)[real]
    finally:
        for module in training:
            module.training = True
    return difference(whole, split), difference(whole, kept)


def _sample(rows: Sequence[TokenRow]) -> list[int]:
    """Short rows of the first, for a check that takes seconds; two at least, since company is what is checked."""
    chosen: list[int] = []
    tokens = 0
    for index in sorted(range(min(len(rows), CHECK_AMONG)), key=lambda index: len(rows[index].ids)):
        if len(chosen) >= 2 and tokens + len(rows[index].ids) > CHECK_TOKENS:
            break
        chosen.append(index)
        tokens += len(rows[index].ids)
    return chosen


def _logits(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    logits: torch.Tensor = model(**batch.inputs(), use_cache=False).logits
    return logits.cpu()
