"""Opens the cache of a run: whether, where and why; the self-check; the fill. Says in one line what came of it.

Where something stands in its way the run goes on without, unless the manifest insists.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from topcoat.api.training import ActivationCache, CacheMedium, CacheMode
from topcoat_trainer import files
from topcoat_trainer import tree as trees
from topcoat_trainer.cache import bandwidth, check, medium, states
from topcoat_trainer.cache.medium import Bandwidth, Choice, Circumstances
from topcoat_trainer.cache.shelf import RESERVE_BYTES, RESERVE_SHARE, Shelf
from topcoat_trainer.cache.states import BoundaryCache, Kept, Memory
from topcoat_trainer.errors import StorageFull, UserInputError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.ranks import Ranks
from topcoat_trainer.view import View

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
TRIAL_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Request:
    """What a run asks of its cache. `halves`: one for each boundary, rising. `folder`: where shelves may stand; `key`:
    all that decides what the frozen layers give; `plan`: a file that remembers what was missing when the fill began.
    """

    halves: Sequence[Halves]
    view: View
    rows: Sequence[TokenRow]
    watched: Sequence[TokenRow]
    epochs: float
    wishes: ActivationCache
    dtype: torch.dtype
    available_bytes: int
    limit_bytes: int | None = None
    folder: Path | None = None
    key: Mapping[str, str] = field(default_factory=dict)
    plan: Path | None = None
    ranks: Ranks = field(default_factory=Ranks)
    progress: states.Progress = lambda _, __: None

    @property
    def every_row(self) -> list[TokenRow]:
        return [*self.rows, *self.watched]


@dataclass(slots=True)
class Opened:
    """The caches of the rows and of the watched rows, boundary by boundary; empty: there is none, and `note` says why.

    `difference`: how far logits are apart when rows were filled in other company.
    """

    note: str
    rows: list[BoundaryCache] = field(default_factory=list)
    watched: list[BoundaryCache] = field(default_factory=list)
    shelves: list[Shelf] = field(default_factory=list)
    medium: CacheMedium | None = None
    tokens: int = 0
    size_bytes: int = 0
    fill_seconds: float = 0.0
    difference: float = 0.0

    def close(self) -> None:
        """No more reading; what is on a volume stays there."""
        for shelf in self.shelves:
            shelf.close()


def opened(asked: Request) -> Opened:
    """The caches, filled; or none, with the reason. UserInputError where the manifest insists on what cannot be."""
    with check.computing(asked.view.model, asked.dtype):
        why = _against(asked)
        if not why:
            why, difference = check.misfit(asked.halves[-1], asked.rows, asked.view)
            for halves in asked.halves[:-1]:
                why = why or check.misfit(halves, asked.rows, asked.view)[0]
        why = asked.ranks.any_word(why)
        if not why:
            chosen = _agreed(asked)
            why = chosen.reason if chosen.medium is None else ""
        if why:
            return _none(asked, why)
        found = _filled(asked, chosen)
        found.difference = difference
        return found


def _none(asked: Request, why: str) -> Opened:
    if asked.wishes.mode is CacheMode.ENABLED:
        raise UserInputError(
            f"the activation cache cannot be used: {why}",
            where="training.activationCache.mode",
            hint="set activationCache.mode to Auto, or change what stands in its way",
        )
    return Opened(f"No activation cache: {why}.")


def _against(asked: Request) -> str:
    """Why not, as far as nothing need be measured."""
    insisted = asked.wishes.mode is CacheMode.ENABLED or asked.wishes.keep
    table = (
        (asked.wishes.mode is CacheMode.DISABLED, "activationCache.mode is Disabled"),
        (not asked.halves, "every layer trains"),
        (asked.epochs <= 1 and not insisted, "each row is read once only"),
    )
    return next((reason for holds, reason in table if holds), "")


def _need_bytes(asked: Request) -> int:
    """What the states of all rows take, at all boundaries."""
    ids = [asked.view.ids(row) for row in asked.every_row]
    tokens = trees.grow(list(dict.fromkeys(ids)), states.SHARED_TOKENS).tokens
    token = _state(asked)[0, 0]
    return tokens * token.numel() * token.element_size() * len(asked.halves)


def _state(asked: Request) -> torch.Tensor:
    """One row's state: with mixed precision its format is neither the weights' nor the computation's for certain."""
    batch = asked.view.batch(asked.rows, [0]).to(asked.view.model.device)
    with asked.view.reading(batch):
        return asked.halves[-1].capture(batch.inputs())


def _agreed(asked: Request) -> Choice:
    """What the first rank chooses and measures, for all; memory is what the poorest of them has."""
    least = replace(asked, available_bytes=int(min(asked.ranks.each(asked.available_bytes))))
    own = _chosen(least) if asked.ranks.first else Choice(None, "")
    told = asked.ranks.from_first({"medium": own.medium, "reason": own.reason})
    return Choice(CacheMedium(told["medium"]) if told["medium"] else None, told["reason"])


def _chosen(asked: Request) -> Choice:
    """Memory where it fits and nothing else is asked for: nothing is quicker. Else what is measured decides."""
    need = _need_bytes(asked)
    limit = need if asked.limit_bytes is None else asked.limit_bytes
    memory = min(int(asked.available_bytes * MEMORY_SHARE), limit)
    wish = CacheMedium.VOLUME if asked.wishes.keep else asked.wishes.medium
    layers = asked.halves[-1].edge
    saved = f"{layers.first_trained} of {layers.total} layers run once per row instead of {asked.epochs:g} times"
    if need <= memory and wish is not CacheMedium.VOLUME:
        return Choice(CacheMedium.MEMORY, f"{saved}; kept in memory")
    if asked.folder is None:
        return medium.choice(_circumstances(asked, need, memory, Bandwidth(0, 0)))
    asked.folder.mkdir(parents=True, exist_ok=True)
    try:
        volume = bandwidth.measure(asked.folder)
    except (StorageFull, OSError):
        volume = Bandwidth(0, 0)
    found = medium.choice(_circumstances(asked, need, memory, volume))
    return found if found.medium is None else Choice(found.medium, f"{saved}; {found.reason}")


def _circumstances(asked: Request, need: int, memory: int, volume: Bandwidth) -> Circumstances:
    disk = 0
    if asked.folder is not None:
        usage = shutil.disk_usage(asked.folder)
        disk = max(0, usage.free - min(RESERVE_BYTES, int(usage.total * RESERVE_SHARE)))
    # Who keeps states for later runs, or insists, is not told that this one alone would be quicker without.
    insisted = asked.wishes.keep or asked.wishes.mode is CacheMode.ENABLED
    return Circumstances(
        need_bytes=need,
        memory_bytes=memory,
        disk_bytes=disk if asked.limit_bytes is None else min(disk, asked.limit_bytes),
        volume=volume,
        prefix_seconds=_prefix_seconds(asked),
        epochs=max(asked.epochs, 1e9) if insisted else asked.epochs,
        wish=CacheMedium.VOLUME if asked.wishes.keep else asked.wishes.medium,
    )


def _prefix_seconds(asked: Request) -> float:
    """All rows through the frozen layers once, from a portion that is timed."""
    view, halves = asked.view, asked.halves[-1]
    few: list[TokenRow] = []
    tokens = 0
    for row in asked.rows:
        if tokens >= TRIAL_TOKENS:
            break
        few.append(row)
        tokens += len(view.ids(row))
    batch = view.batch(few, range(len(few))).to(view.model.device)
    with view.reading(batch):
        halves.capture(batch.inputs())  # a first pass sets things up
        began = time.perf_counter()
        halves.capture(batch.inputs())
        spent = time.perf_counter() - began
    return spent / max(1, batch.tokens) * sum(len(view.ids(row)) for row in asked.every_row)


def _filled(asked: Request, chosen: Choice) -> Opened:
    """The fill. A volume that is full or broken in the middle of it is said once; memory or recomputing follow."""
    began = time.perf_counter()
    try:
        found = _fill(asked, chosen)
    except (StorageFull, OSError) as error:
        if chosen.medium is not CacheMedium.VOLUME or not asked.ranks.alone:
            raise
        why = error.message if isinstance(error, StorageFull) else (error.strerror or type(error).__name__)
        logger.warning("activation cache: the volume failed (%s)", why)
        if _need_bytes(asked) > int(asked.available_bytes * MEMORY_SHARE):
            return _none(asked, f"the volume failed ({why}), and memory is too small")
        chosen = Choice(CacheMedium.MEMORY, f"kept in memory, since the volume failed ({why})")
        found = _fill(asked, chosen)
    found.fill_seconds = time.perf_counter() - began
    found.tokens = sum(cache.tokens for cache in found.rows)
    found.size_bytes = sum(cache.size_bytes for cache in found.rows)
    found.note = (
        f"Activation cache: {chosen.reason}; {found.tokens:,} tokens, {found.size_bytes / 2**20:.1f} MiB, "
        f"filled in {found.fill_seconds:.1f} s."
    )
    return found


def _fill(asked: Request, chosen: Choice) -> Opened:
    found = Opened("", medium=chosen.medium)
    for halves in asked.halves:
        kept = _kept(asked, halves, found)
        found.rows.append(BoundaryCache(halves, asked.view, kept))
        found.watched.append(BoundaryCache(halves, asked.view, kept))
    missing = _missing(asked, found.rows)
    states.fill(found.rows, missing, progress=asked.progress, ranks=asked.ranks)
    for cache, beside in zip(found.rows, found.watched, strict=True):
        cache.hold(asked.rows)
        beside.hold(asked.watched)
    return found


def _kept(asked: Request, halves: Halves, found: Opened) -> Kept:
    if found.medium is not CacheMedium.VOLUME or asked.folder is None:
        return Memory()
    key = {**asked.key, "boundary": str(halves.edge.first_trained)}
    state = _state(asked)
    shelf = Shelf(asked.folder, key, width=state.shape[-1], dtype=state.dtype, limit_bytes=asked.limit_bytes)
    found.shelves.append(shelf)
    return shelf


def _missing(asked: Request, caches: Sequence[BoundaryCache]) -> list[TokenRow]:
    """What is to be computed. A run that was killed goes on with the portions that it began with, for a state's last
    bits depend on its company: so what was missing at the first beginning is noted, one bit for each distinct row.
    """
    distinct = list({ids: row for row in asked.every_row if (ids := asked.view.ids(row))}.values())
    lacking = {asked.view.ids(row) for cache in caches for row in cache.missing(distinct)}
    noted = asked.plan.read_bytes() if asked.plan is not None and asked.plan.is_file() else b""
    before = noted if len(noted) == len(distinct) else bytes(len(distinct))
    found = [bool(flag) or asked.view.ids(row) in lacking for flag, row in zip(before, distinct, strict=True)]
    # What any rank lacks is computed: their volumes need not be the same one.
    votes = torch.tensor(found, dtype=torch.float32)
    asked.ranks.add_up([votes], 0.0)
    flags = [bool(vote) for vote in votes]
    if asked.plan is not None and asked.ranks.first:
        files.write_bytes(asked.plan, bytes(flags))
    return [row for row, lacks in zip(distinct, flags, strict=True) if lacks]
