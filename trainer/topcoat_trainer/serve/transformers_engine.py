"""Our own engine: the base model and its versions in this process, on a CPU or a GPU. Knows no alias and no HTTP.

Puts together the thread that computes, the computer that suits the model, and the generators that make answers.
"""

from __future__ import annotations

import asyncio
import copy
import math
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import transformers

from topcoat.api.report import Probe
from topcoat_trainer import devices, model
from topcoat_trainer.evaluate import generate
from topcoat_trainer.model import BaseModel
from topcoat_trainer.model_file import ModelFacts
from topcoat_trainer.serve import trial
from topcoat_trainer.serve.answer import Answers, Words
from topcoat_trainer.serve.engine import Ask, Business, Piece
from topcoat_trainer.serve.want import Computer
from topcoat_trainer.serve.worker import Worker


class TransformersEngine:
    """Start it by `started`."""

    name = "Transformers"
    version = transformers.__version__

    def __init__(self, worker: Worker, base: BaseModel, computer: Computer, ends: frozenset[int]) -> None:
        self._worker = worker
        self._base = base
        self._computer = computer
        self._keys: set[str] = set()
        # The event loop's thread has a tokenizer of its own: one must not be used from two threads at once.
        tokenizer: Any = copy.deepcopy(base.tokenizer)
        self._answers = Answers(computer, Words(tokenizer.decode, ends))
        worker.employ(computer.compute)

    @classmethod
    async def started(
        cls, facts: ModelFacts, slots: int, end_ids: frozenset[int], kv_bytes: int | None = None
    ) -> TransformersEngine:
        """The base model loaded, on this machine's device. `slots`: answers at once. `end_ids`: what ends a turn of
        the chat template. `kv_bytes`: memory for keys and values; None: a share of what is free.
        """
        worker = Worker(slots)

        def load() -> TransformersEngine:
            devices.use_threads()
            device = devices.choose()
            base = model.load(facts.path, device.name, device.dtype, facts=facts)
            computer = trial.computer(base, device, slots, kv_bytes)
            return cls(worker, base, computer, generate.end_tokens(base.model, base.tokenizer, *end_ids))

        try:
            return await worker.call(load)
        except BaseException:
            worker.close()
            raise

    @property
    def base(self) -> BaseModel:
        return self._base

    def business(self) -> Business:
        return Business(*self._worker.business())

    def alive(self) -> bool:
        return self._worker.alive()

    async def lost(self) -> None:
        """Never: it lives and dies with this process."""
        await asyncio.Event().wait()

    def without_base(self) -> str:
        return ""

    def close(self) -> None:
        self._worker.close()

    async def load(self, key: str, folder: Path) -> None:
        def load() -> None:
            if key in self._keys:
                raise ValueError(f"{key} is loaded already, and a version is never loaded over another")
            self._computer.load(key, folder)
            self._keys.add(key)

        await self._worker.call(load)

    async def unload(self, key: str) -> None:
        def unload() -> None:
            if key in self._keys:
                self._computer.unload(key)
            self._keys.discard(key)

        await self._worker.call(unload)

    def generate(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        return self._worker.stream(ask.lane, lambda: self._answers.pieces(ask))

    async def choose(self, ask: Ask, labels: Sequence[Sequence[int]]) -> Sequence[float]:
        shares: list[float] = []
        async for part in self._worker.stream(ask.lane, lambda: self._answers.shares(ask, labels)):
            shares.extend(part)
        return shares

    async def probe(self, key: str | None, probes: Sequence[Probe]) -> float:
        found = [part async for part in self._worker.stream("", lambda: self._answers.differences(key, probes))]
        # max() would overlook what is not a number.
        return max(found, default=0.0) if all(map(math.isfinite, found)) else math.inf
