"""The boundary cache: what the frozen layers give for each row, computed once, kept in memory, used in every epoch.

Exact or not used: `open_cache` compares whole and split on real rows first. Whoever trains need not know of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel

from topcoat.api.training import CacheMedium, CacheMode
from topcoat_trainer import batches
from topcoat_trainer import prefix as prefixes
from topcoat_trainer.batches import Batch
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import OutOfMemory, TrainerError, UserInputError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves, difference

logger = logging.getLogger(__name__)

FILL_TOKENS = 4096
CHECK_TOKENS = 192
# Prompt tokens that must be saved before a beginning that all rows share is computed apart.
SHARED_TOKENS = 8192
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


class Beginning:
    """The tokens that all rows begin with, through the frozen layers once: their state, and what later tokens see."""

    def __init__(self, halves: Halves, prefix: prefixes.Prefix) -> None:
        self.halves = halves
        self.prefix = prefix
        self.hidden = halves.capture(_padded([prefix.ids], halves.model.device))

    def capture(self, members: list[tuple[int, ...]]) -> torch.Tensor:
        """States of the rows, filled up on the right; only what follows the beginning is computed."""
        model = self.halves.model
        own = _padded([ids[len(self.prefix) :] for ids in members], model.device)
        seen = prefixes.expanded(model, self.prefix, [0] * len(members))
        rest = self.halves.capture({**own, "past_key_values": seen, "use_cache": True})
        return torch.cat([self.hidden.expand(len(members), -1, -1), rest], dim=1)


def _beginning_or_none(halves: Halves, ids: tuple[int, ...]) -> Beginning | None:
    """None where there is nothing to share, or where the model's state cannot be shared as a whole."""
    found = prefixes.prefix_or_none(halves.model, ids) if ids else None
    return Beginning(halves, found) if found is not None and found.ids == ids else None


def common_beginning(rows: Sequence[TokenRow]) -> tuple[int, ...]:
    """What all rows begin with, where computing it once saves enough to be worth another way of computing."""
    distinct = list({row.ids for row in rows})
    length = prefixes.shared_length(distinct)
    return distinct[0][:length] if length * (len(distinct) - 1) >= SHARED_TOKENS else ()


class BoundaryCache:
    """The states of a set of rows at the boundary: one sample after another, unpadded, in one block of memory."""

    def __init__(self, halves: Halves) -> None:
        self.halves = halves
        self._states = torch.empty(0)
        self._spans: list[tuple[int, int]] = []
        self._begin: Beginning | None = None

    @property
    def size_bytes(self) -> int:
        return self._states.nbytes

    @property
    def tokens(self) -> int:
        return self._states.shape[0]

    def fill(
        self,
        rows: Sequence[TokenRow],
        batch_tokens: int = FILL_TOKENS,
        progress: Progress = lambda _, __: None,
        begin: tuple[int, ...] = (),
    ) -> None:
        """Computes and keeps the states of the rows, equal rows and the tokens `begin`, with which all of them begin,
        once. A portion too large for memory is halved.
        """
        first: dict[tuple[int, ...], tuple[int, int]] = {}
        start = 0
        for row in rows:
            if row.ids not in first:
                first[row.ids] = (start, len(row.ids))
                start += len(row.ids)
        config, model = self.halves.model.config.get_text_config(), self.halves.model
        self._states = torch.empty(start, config.hidden_size, dtype=model.dtype)
        self._spans = [first[row.ids] for row in rows]
        self._begin = _beginning_or_none(self.halves, begin)
        done = 0
        for members in _portions(list(first), batch_tokens):
            self._run(members, first)
            done += len(members)
            progress(done, len(first))

    def _run(self, members: list[tuple[int, ...]], places: dict[tuple[int, ...], tuple[int, int]]) -> None:
        """One pass over rows of like length. They are filled up on the right: causal layers never see what follows."""
        try:
            if self._begin:
                hidden = self._begin.capture(members)
            else:
                hidden = self.halves.capture(_padded(members, self.halves.model.device))
        except torch.OutOfMemoryError as error:
            if len(members) == 1:
                raise OutOfMemory(
                    f"a row of {len(members[0])} tokens does not fit through the frozen layers"
                ) from error
            self._run(members[: len(members) // 2], places)
            self._run(members[len(members) // 2 :], places)
            return
        if hidden.dtype != self._states.dtype:  # a model that computes in another dtype than its weights'
            self._states = self._states.to(hidden.dtype)
        for index, ids in enumerate(members):
            start, length = places[ids]
            self._states[start : start + length] = hidden[index, :length].to(self._states.device)

    def states(self, row: int) -> torch.Tensor:
        """The row's states, tokens by hidden size. A view: do not write to it."""
        start, length = self._spans[row]
        return self._states[start : start + length]

    def hidden(self, batch: Batch) -> torch.Tensor:
        """The states of a batch's rows where the batch has them, zeros where it is filled up."""
        sequences, width = batch.input_ids.shape
        hidden = torch.zeros(sequences, width, self._states.shape[1], dtype=self._states.dtype)
        for segment in batch.segments:
            states = self.states(segment.row)
            if len(states) != segment.length:
                raise TrainerError("the batch's rows are not those of the cache")
            hidden[segment.sequence, segment.start : segment.start + segment.length] = states
        return hidden.to(self.halves.model.device)

    @contextmanager
    def around(self, batch: Batch) -> Iterator[PreTrainedModel]:
        """Inside it the model's forward of this batch begins at the boundary."""
        with self.halves.injected(self.hidden(batch)) as model:
            yield model


def _padded(members: list[tuple[int, ...]], device: torch.device) -> dict[str, torch.Tensor]:
    width = max(map(len, members))
    return {"input_ids": torch.tensor([ids + (0,) * (width - len(ids)) for ids in members], device=device)}


def _portions(rows: list[tuple[int, ...]], batch_tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Rows of like length together, longest first, so that memory is short at once or never."""
    portion: list[tuple[int, ...]] = []
    for ids in sorted(rows, key=len, reverse=True):
        longest = len(portion[0]) if portion else 0
        if portion and ((len(portion) + 1) * longest > batch_tokens or len(ids) < longest * LENGTH_SLACK):
            yield portion
            portion = []
        portion.append(ids)
    if portion:
        yield portion


def open_cache(
    halves: Halves, rows: Sequence[TokenRow], *, packing: bool, progress: Progress = lambda _, __: None
) -> tuple[BoundaryCache | None, CacheReport]:
    """A filled cache after a self-check on the rows' first, or None with the reason; training then goes on without."""
    tolerance = TOLERANCE.get(halves.model.dtype, 1e-4)
    begin = common_beginning(rows)
    try:
        split, kept = _self_check(halves, rows, packing=packing, begin=begin)
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
    cache = BoundaryCache(halves)
    cache.fill(rows, progress=progress, begin=begin)
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


def _self_check(
    halves: Halves, rows: Sequence[TokenRow], *, packing: bool, begin: tuple[int, ...]
) -> tuple[float, float]:
    """How far one batch's logits are apart, whole and split: first with the state caught from that very batch (0: the
    bits are equal), then with states filled as the cache fills them.
    """
    chosen = _sample(rows)
    batch = batches.batch(rows, chosen, packing=packing).to(halves.model.device)
    few = BoundaryCache(halves)
    few.fill([rows[index] for index in chosen], begin=begin)
    own = {index: place for place, index in enumerate(chosen)}
    moved = replace(batch, segments=tuple(replace(s, row=own[s.row]) for s in batch.segments))
    real = torch.zeros(batch.input_ids.shape, dtype=torch.bool)
    for segment in batch.segments:
        real[segment.sequence, segment.start : segment.start + segment.length] = True
    training = [module for module in halves.model.modules() if module.training]
    halves.model.eval()
    try:
        with torch.no_grad():
            whole = _logits(halves.model, batch)[real]
            with halves.injected(halves.capture(batch.inputs())) as model:
                split = _logits(model, batch)[real]
            with few.around(moved) as model:
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
