"""Computes each text alone, exchanging the model's weights between steps: for models that bear no common batch.

Right for every decoder, and slow. Only the engine's thread may call it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from topcoat_trainer import prefix
from topcoat_trainer.evaluate import prompt
from topcoat_trainer.evaluate.prompt import Prompted
from topcoat_trainer.model import BaseModel
from topcoat_trainer.serve.held import Held, held
from topcoat_trainer.serve.want import SCORED_TOKENS, Found, Outcome, Want


class LoneRow:
    """A text with a cache of its own."""

    def __init__(self, key: str | None, ids: Sequence[int], batch: Prompted) -> None:
        self.key = key
        self.ids = list(ids)
        self.batch = batch
        self.read = 0

    def close(self) -> None:
        self.batch.cache = None


class Alone:
    """A computer whose wants take turns."""

    def __init__(self, base: BaseModel) -> None:
        self._base = base
        self._plan = prompt.plan_for_one(base.model)
        self._held: dict[str, Held] = {}
        self._worn: str | None = None

    def load(self, key: str, folder: Path) -> None:
        self._wear(None)
        self._held[key] = held(self._base, folder)

    def unload(self, key: str) -> None:
        if self._worn == key:
            self._wear(None)
        self._held.pop(key, None)

    def open(self, key: str | None, ids: Sequence[int], *, more: int = 0, whole: bool = False) -> LoneRow:
        cache = prefix.empty_cache(self._base.model) if self._plan.cached else None
        lengths = torch.zeros(1, dtype=torch.long, device=self._base.model.device)
        return LoneRow(key, ids, Prompted([0], cache, None, lengths, torch.empty(0)))

    def compute(self, wants: Sequence[Want]) -> list[Outcome]:
        return [self._one(want) for want in wants]

    def _one(self, want: Want) -> Outcome:
        row: Any = want.row
        try:
            with self._computing(row.key) as model:
                logits = self._branched(model, row, want) if want.branches else self._read(model, row, every=want.every)
        except Exception as error:  # noqa: BLE001 (it fails this request and no other)
            return error
        return Found(logits, logits.argmax(-1).tolist())

    def _read(self, model: Any, row: LoneRow, *, every: bool) -> torch.Tensor:
        ids = row.ids[row.read :]
        if every and self._plan.cached:
            ids = ids[:SCORED_TOKENS]
        logits = self._feed(model, row.batch, ids, len(ids) if every else 1)
        row.read += len(ids)
        return logits

    def _branched(self, model: Any, row: LoneRow, want: Want) -> torch.Tensor:
        row.batch.logits = torch.empty(1, device=model.device)
        parts = [self._feed(model, row.batch.take([0]), branch, len(branch)) for branch in want.branches]
        return torch.cat(parts)

    def _feed(self, model: Any, batch: Prompted, ids: Sequence[int], keep: int) -> torch.Tensor:
        """Reads tokens on, and gives the logits behind the last `keep` of them."""
        row = torch.tensor([list(ids)], device=model.device)
        positions = batch.lengths[:, None] + torch.arange(len(ids), device=model.device)[None, :]
        logits = prompt.step(model, batch, row, positions, keep=keep)
        batch.lengths = batch.lengths + len(ids)
        return logits[0]

    @contextmanager
    def _computing(self, key: str | None) -> Iterator[Any]:
        """The model with a version's weights on it, for one step."""
        self._wear(key)
        with torch.inference_mode():
            yield self._base.model

    def _wear(self, key: str | None) -> None:
        if key == self._worn:
            return
        if self._worn is not None:
            self._held[self._worn].take_off()
            self._worn = None
        if key is not None:
            self._held[key].put_on()
            self._worn = key
