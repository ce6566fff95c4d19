"""Our engine, asked as the server asks it; no HTTP in between."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence

from benchmarks.serving.figures import Answered, memory_mib
from benchmarks.serving.load import Request
from benchmarks.serving.subject import CONCURRENCY, Order
from topcoat_trainer import devices, model
from topcoat_trainer.serve import trial
from topcoat_trainer.serve.engine import Ask, Sampling
from topcoat_trainer.serve.transformers_engine import TransformersEngine
from topcoat_trainer.serve.worker import Worker


class Ours:
    """As many askers as may be answered at once, each with one request after the other."""

    def __init__(self, order: Order) -> None:
        worker = Worker(CONCURRENCY)

        def load() -> TransformersEngine:
            devices.use_threads(order.threads)
            device = devices.choose()
            base = model.load(order.model, device.name, device.dtype)
            computer = trial.computer(base, device, CONCURRENCY)
            # Nothing ends an answer early, so every subject makes as many tokens.
            return TransformersEngine(worker, base, computer, frozenset())

        self._loop = asyncio.new_event_loop()
        self._engine = self._loop.run_until_complete(worker.call(load))
        for number, folder in enumerate(order.folders):
            self._loop.run_until_complete(self._engine.load(f"v{number}", folder))

    def answer(self, asked: Sequence[Request]) -> list[Answered]:
        return self._loop.run_until_complete(self._all(deque(asked)))

    async def _all(self, waiting: deque[Request]) -> list[Answered]:
        found: list[Answered] = []

        async def asker() -> None:
            while waiting:
                found.append(await self._one(waiting.popleft()))

        await asyncio.gather(*(asker() for _ in range(CONCURRENCY)))
        return found

    async def _one(self, request: Request) -> Answered:
        key = None if request.version is None else f"v{request.version}"
        started, first, tokens = time.perf_counter(), 0.0, 0
        async for piece in self._engine.generate(Ask(key, str(key), request.ids, Sampling(request.new_tokens))):
            first = first or time.perf_counter() - started
            tokens += piece.count
        return Answered(first, tokens)

    def memory_mib(self) -> float:
        return memory_mib()

    def close(self) -> None:
        self._engine.close()
        self._loop.close()
