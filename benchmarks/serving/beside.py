"""A real vLLM on this machine's CPU, asked over HTTP as it is meant to be. One process holds all versions and another
the base without LoRA; whoever is not measured is stopped, as vLLM's processes look for work without a pause.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.serving.figures import Answered, memory_mib
from benchmarks.serving.load import Request
from benchmarks.serving.subject import CONCURRENCY, Order
from tests.support.vllm import NAME, RealVLLM

FREE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class Door:
    """What another process needs to ask a vLLM, and to stop it."""

    url: str
    group: int
    processes: tuple[int, ...]

    def signal(self, number: int) -> None:
        os.killpg(self.group, number)


class House:
    """The vLLMs, started when first asked for."""

    def __init__(self, order: Order, folder: Path) -> None:
        self._order = order
        self._folder = folder
        self._found: dict[bool, RealVLLM] = {}

    def kind(self, versions: int) -> functools.partial[Asked]:
        """Makes the subject that asks for so many versions."""
        real = self._real(adapted=bool(versions))
        if real.child is None:
            raise RuntimeError("vLLM has ended")
        return functools.partial(Asked, Door(real.url, real.child.pid, tuple(real.processes())))

    def _real(self, *, adapted: bool) -> RealVLLM:
        if adapted not in self._found:
            count = len(self._order.folders) if adapted else 0
            folder = self._folder / f"vllm-{count}"
            real = RealVLLM(self._order.model, folder, count, self._order.threads)
            self._found[adapted] = real
            real.start().ready()
            for number, place in enumerate(self._order.folders if adapted else ()):
                body = {"lora_name": f"v{number}", "lora_path": str(place.resolve())}
                said = httpx2.post(f"{real.url}/v1/load_lora_adapter", json=body, timeout=60, trust_env=False)
                said.raise_for_status()
        return self._found[adapted]

    def close(self) -> None:
        for real in self._found.values():
            real.kill()


class Asked:
    """As many askers as may be answered at once, each with one request after the other."""

    def __init__(self, door: Door, _: Order) -> None:
        self._door = door

    def answer(self, asked: Sequence[Request]) -> list[Answered]:
        self._door.signal(signal.SIGCONT)
        try:
            return asyncio.run(self._all(deque(asked)))
        finally:
            self._door.signal(signal.SIGSTOP)

    async def _all(self, waiting: deque[Request]) -> list[Answered]:
        found: list[Answered] = []
        async with httpx2.AsyncClient(base_url=self._door.url, timeout=FREE_SECONDS, trust_env=False) as client:

            async def asker() -> None:
                while waiting:
                    found.append(await self._one(client, waiting.popleft()))

            await asyncio.gather(*(asker() for _ in range(CONCURRENCY)))
        return found

    async def _one(self, client: httpx2.AsyncClient, request: Request) -> Answered:
        body: dict[str, Any] = {
            "model": NAME if request.version is None else f"v{request.version}", "prompt": list(request.ids),
            "max_tokens": request.new_tokens, "temperature": 0.0, "ignore_eos": True, "stream": True,
            "stream_options": {"include_usage": True},
        }  # fmt: skip
        started, first, last = time.perf_counter(), 0.0, ""
        async with client.stream("POST", "/v1/completions", json=body) as said:
            said.raise_for_status()
            async for line in said.aiter_lines():
                if line.startswith("data: {"):
                    first = first or time.perf_counter() - started
                    last = line
        made = int(json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"])
        if made != request.new_tokens:
            raise RuntimeError(f"vLLM made {made} tokens of {request.new_tokens}")
        return Answered(first, made)

    def memory_mib(self) -> float:
        return sum(map(memory_mib, self._door.processes))

    def close(self) -> None:
        pass
