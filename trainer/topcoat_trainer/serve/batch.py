"""Computes all running texts together, whatever versions they are of: one pass through the model for each step.

A step takes one token of every text that is being answered, and parts of prompts up to a budget, so that a long prompt
delays nobody's answer for long. Only the engine's thread may call this.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from topcoat_trainer.model import BaseModel
from topcoat_trainer.serve import attention, kept, tuned
from topcoat_trainer.serve.attention import Branches, Reading, Run, Single, Step
from topcoat_trainer.serve.kept import PAGE_TOKENS, Kept, Side
from topcoat_trainer.serve.misfit import Build
from topcoat_trainer.serve.shelf import Closet, Place, Shelf
from topcoat_trainer.serve.table import Stretch, Table
from topcoat_trainer.serve.touched import Touched
from topcoat_trainer.serve.want import SCORED_TOKENS, Found, Outcome, Want

ALONE_FACTOR = 4
"""So many times the budget where nobody's answer would be delayed: the larger a step, the less each token costs."""
AHEAD_TOKENS = 128
"""For so many tokens of an answer a place has room from the start."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`slots`: texts at once. `step_tokens`: prompt tokens in one step. `bytes`: for all keys and values."""

    slots: int
    step_tokens: int
    bytes: int


@dataclass(eq=False)
class BatchRow:
    """A text in the batch. `read`: how many of its tokens lie in its place; `told`: of how many logits were given."""

    batch: Batch
    side: Side
    ids: list[int]
    more: int
    whole: bool
    place: Place | None = None
    read: int = 0
    told: int = 0
    pages: list[bytes] = field(default_factory=list)

    def close(self) -> None:
        self.batch.leave(self)


def _single(want: Want) -> bool:
    """Whether an answer waits for its next token."""
    row: Any = want.row
    return bool(row.read) and len(row.ids) - row.read == 1


@dataclass(frozen=True, slots=True)
class Turn:
    """What one text does in a step: reads `count` tokens, or tries branches."""

    want: Want
    row: BatchRow
    count: int

    @property
    def branches(self) -> tuple[tuple[int, ...], ...]:
        return () if self.count else self.want.branches

    @property
    def tokens(self) -> list[int]:
        if self.branches:
            return [token for branch in self.branches for token in branch]
        return self.row.ids[self.row.read : self.row.read + self.count]

    @property
    def positions(self) -> list[int]:
        if self.branches:
            return attention.positions(self.row.read, [len(branch) for branch in self.branches])
        return list(range(self.row.read, self.row.read + self.count))

    @property
    def kept(self) -> int:
        """Of how many of its last tokens logits are wanted."""
        if self.branches:
            return len(self.tokens)
        end = self.row.read + self.count
        if self.want.every:
            return max(0, end - max(self.row.read, self.row.told))
        return int(end == len(self.row.ids) and not self.want.branches)


class Batch:
    """A computer for models that bear it (`misfit.build`)."""

    def __init__(self, base: BaseModel, build: Build, limits: Limits) -> None:
        self._base = base
        self._model: Any = base.model
        self._config = base.model.config.get_text_config()
        self._build = build
        self._limits = limits
        self._touched: dict[str, Touched] = {}
        self._sides: dict[str | None, Side] = {None: Side(None, build.shape.layers)}
        self._own: set[str] = set()
        self._rows: list[BatchRow] = []
        self.closet = Closet(build.shape, limits.bytes, limits.slots)
        self.kept = Kept(build.shape.layers)
        self.closet.other_bytes, self.closet.spare = lambda: self.kept.bytes, self.kept.drop
        self.kept.room = self._room_for_pages

    def _room_for_pages(self, wanted_bytes: int) -> bool:
        while self.closet.bytes + self.kept.bytes + wanted_bytes > self._limits.bytes:
            if not self.kept.drop():
                return False
        return True

    def load(self, key: str, folder: Path) -> None:
        found = tuned.tuned(self._base, folder)
        for name, pair in found.pairs.items():
            self._touch(name).add_pair(key, pair)
        for name, module in found.modules.items():
            self._touch(name).add_own(key, module)
        if found.modules:
            self._own.add(key)
        self._sides[key] = Side(key, found.boundary)

    def _touch(self, name: str) -> Touched:
        if name not in self._touched:
            self._touched[name] = Touched(self._model.get_submodule(name), self._build.dims[name])
        return self._touched[name]

    def unload(self, key: str) -> None:
        for touched in self._touched.values():
            touched.remove(key)
        self._own.discard(key)
        self._sides.pop(key, None)
        self.kept.drop_version(key)

    def open(self, key: str | None, ids: Sequence[int], *, more: int = 0, whole: bool = False) -> BatchRow:
        row = BatchRow(self, self._sides[key], list(ids), min(more, AHEAD_TOKENS), whole)
        self._rows.append(row)
        return row

    def leave(self, row: BatchRow) -> None:
        if row in self._rows:
            self._rows.remove(row)
            self.kept.touch(row.side, row.pages)
            self._give_up(row)

    def _give_up(self, row: BatchRow) -> None:
        if row.place is not None:
            row.place.shelf.free(row.place)
        row.place, row.read = None, 0

    def compute(self, wants: Sequence[Want]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        turns = self._turns(wants)
        if not turns and all(row.place is None or row in [want.row for want in wants] for row in self._rows):
            outcomes[id(wants[0])] = MemoryError("the text needs more memory than there is for keys and values")
        try:
            outcomes |= self._step(turns) if turns else {}
        except Exception:  # noqa: BLE001 (whoever is to blame fails alone)
            outcomes |= self._each(turns)
        return [outcomes.get(id(want)) for want in wants]

    def _each(self, turns: Sequence[Turn]) -> dict[int, Outcome]:
        """One by one. What a step wrote is written again, so that nothing of the failed one counts."""
        outcomes: dict[int, Outcome] = {}
        for turn in turns:
            try:
                outcomes |= self._step([turn])
            except Exception as error:  # noqa: BLE001 (the request is told, whatever it was)
                outcomes[id(turn.want)] = error
        return outcomes

    def _turns(self, wants: Sequence[Want]) -> list[Turn]:
        """Who takes part in this step: all single tokens, and as much of prompts as the budget allows."""
        turns, coming = [], set()
        budget = self._limits.step_tokens * (1 if any(_single(want) for want in wants) else ALONE_FACTOR)
        for number, want in enumerate(wants):
            row: Any = want.row
            reach = self._reach(row)
            start = max(row.read, reach * PAGE_TOKENS)
            left = len(row.ids) - start
            page = self._next_page(row, reach) if left > 1 else None
            count = left if left == 1 else min(left, budget, SCORED_TOKENS if want.every else left)
            # What another text of this step is about to read need not be read twice: it is there in the next one.
            if page in coming or (count == 0 and left > 0):
                continue
            if not self._placed(row, start + count, wants[number + 1 :]):
                continue
            if start > row.read:
                self.kept.fetch(row.side, row.pages[:reach], row.read // PAGE_TOKENS, row.place)
                row.read = start
            if page is not None:
                coming.add(page)
            budget -= count if count > 1 else 0
            turns.append(Turn(want, row, count))
        return turns

    def _reach(self, row: BatchRow) -> int:
        """Pages of a prompt that others have read already. The last token is always read, for its logits."""
        if row.whole or len(row.ids) - row.read < 2:
            return 0
        kept.names(row.ids, row.pages)
        return self.kept.reach(row.side, row.pages[: (len(row.ids) - 1) // PAGE_TOKENS])

    def _next_page(self, row: BatchRow, reach: int) -> tuple[str | None, bytes] | None:
        """The page that a text would read first, if it can be shared."""
        number = max(row.read // PAGE_TOKENS, reach)
        if row.whole or number >= (len(row.ids) - 1) // PAGE_TOKENS:
            return None
        return row.side.key, row.pages[number]

    def _placed(self, row: BatchRow, tokens: int, younger: Sequence[Want]) -> bool:
        """Whether a text has a place for so many tokens. Younger ones give up theirs, and read again later."""
        if row.place is not None and row.place.shelf.length >= tokens:
            return True
        victims: list[Any] = [want.row for want in younger]
        while True:
            if row.place is None:
                # What follows the prompt is to find room, too, but not at any price.
                found = self.closet.place_or_none(max(tokens, len(row.ids) + row.more))
                found = found or self.closet.place_or_none(tokens)
            else:
                found = self.closet.moved_or_none(row.place, tokens)
            if found is not None:
                row.place = found
                return True
            while victims and victims[-1].place is None:
                victims.pop()
            if not victims:
                return False
            self._give_up(victims.pop())

    @torch.inference_mode()
    def _step(self, turns: Sequence[Turn]) -> dict[int, Outcome]:
        """One pass through the model; only when it is done does anything count."""
        turns = self._ordered(turns)
        ids = [token for turn in turns for token in turn.tokens]
        places = [position for turn in turns for position in turn.positions]
        keep: list[int] = []
        line = 0
        for turn in turns:
            end = line + len(turn.tokens)
            keep.extend(range(end - turn.kept, end))
            line = end
        step = Step(self._readings(turns), self._build.windows, self._table(turns))
        with attention.stepping(self._config, step):
            logits = self._logits(ids, places, keep)
        likeliest = logits.argmax(-1).tolist()
        outcomes: dict[int, Outcome] = {}
        line = 0
        for turn in turns:
            end = line + turn.kept
            if turn.kept:
                outcomes[id(turn.want)] = Found(logits[line:end], likeliest[line:end])
            line = end
        for turn in turns:
            turn.row.read += turn.count
            turn.row.told = max(turn.row.told, turn.row.read if turn.want.every else 0)
            self._keep(turn.row, turn.row.read - turn.count)
        return outcomes

    def _keep(self, row: BatchRow, before: int) -> None:
        """Whole pages that were read are kept for others, where memory allows."""
        if row.place is None or before // PAGE_TOKENS == row.read // PAGE_TOKENS:
            return
        kept.names(row.ids[: row.read], row.pages)
        with suppress(MemoryError, torch.OutOfMemoryError):
            for number in range(before // PAGE_TOKENS, row.read // PAGE_TOKENS):
                self.kept.keep(row.side, row.pages[number], number, row.place)

    def _ordered(self, turns: Sequence[Turn]) -> list[Turn]:
        """As the table wants them."""
        tokens: Counter[str | None] = Counter()
        for turn in turns:
            tokens[turn.row.side.key] += len(turn.tokens)

        def place(turn: Turn) -> tuple[bool, bool, int, str]:
            key = turn.row.side.key
            return key in self._own, key is not None, tokens[key], key or ""

        return sorted(turns, key=place)

    def _table(self, turns: Sequence[Turn]) -> Table:
        stretches: list[Stretch] = []
        line = 0
        for turn in turns:
            end, key = line + len(turn.tokens), turn.row.side.key
            if stretches and stretches[-1].key == key:
                stretches[-1] = Stretch(stretches[-1].start, end, key)
            else:
                stretches.append(Stretch(line, end, key))
            line = end
        return Table(stretches, self._build.shape.device)

    def _readings(self, turns: Sequence[Turn]) -> list[Reading]:
        singles: dict[Shelf, list[tuple[int, int, int]]] = {}
        readings: list[Reading] = []
        line = 0
        for turn in turns:
            place, past = turn.row.place, turn.row.read
            if place is None:
                raise RuntimeError("a text has no place")
            end = line + len(turn.tokens)
            if turn.branches:
                lengths = [len(branch) for branch in turn.branches]
                readings.append(Branches(place, slice(line, end), past, lengths))
            elif turn.count == 1:
                place.used = max(place.used, past + 1)
                singles.setdefault(place.shelf, []).append((line, place.index, past))
            else:
                place.used = max(place.used, past + turn.count)
                readings.append(Run(place, slice(line, end), past))
            line = end
        return [*readings, *(self._single(shelf, found) for shelf, found in singles.items())]

    def _single(self, shelf: Shelf, found: Sequence[tuple[int, int, int]]) -> Single:
        tokens, rows, positions = torch.tensor(found, device=self._build.shape.device).unbind(1)
        return Single(shelf, tokens, rows, positions, max(past for _, _, past in found) + 1)

    def _logits(self, ids: Sequence[int], places: Sequence[int], keep: Sequence[int]) -> torch.Tensor:
        device = self._build.shape.device
        wanted = torch.tensor(list(keep) or [0], device=device)
        line: dict[str, Any] = {
            "input_ids": torch.tensor([list(ids)], device=device),
            "position_ids": torch.tensor([list(places)], device=device),
            "use_cache": False,
        }
        if self._build.keeps:
            line["logits_to_keep"] = wanted
        logits: torch.Tensor = self._model(**line).logits[0]
        return (logits if self._build.keeps else logits[wanted]).float()
