"""Transformers' own continuous batching, for the base alone: the part of `transformers serve --continuous-batching`
that computes. The command itself needs FastAPI, which nothing else here does, so its manager is used directly.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from benchmarks.serving.figures import Answered, memory_mib
from benchmarks.serving.load import Request
from benchmarks.serving.subject import CONCURRENCY, Order

PAGE_TOKENS = 32
"""As small as shares a system prompt of our length; transformers' own 256 would share none."""
BLOCKS = 256
STEP_TOKENS = 256
POLL_SECONDS = 60


class Continuous:
    """The manager with CONCURRENCY requests in its hands."""

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        factory: Any = transformers.AutoModelForCausalLM
        model = factory.from_pretrained(order.model, dtype=torch.float32, attn_implementation="sdpa").eval()
        settings = transformers.GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        limits = transformers.ContinuousBatchingConfig(
            page_size=PAGE_TOKENS, num_blocks=BLOCKS, max_batch_tokens=STEP_TOKENS
        )
        self._manager = model.init_continuous_batching(settings, limits)
        self._manager.start()

    def answer(self, asked: Sequence[Request]) -> list[Answered]:
        waiting = deque(asked)
        running: dict[str, tuple[Request, float]] = {}
        found: list[Answered] = []
        while waiting or running:
            while waiting and len(running) < CONCURRENCY:
                request = waiting.popleft()
                started = time.perf_counter()
                name = self._manager.add_request(
                    list(request.ids), max_new_tokens=request.new_tokens, record_timestamps=True, eos_token_id=-1
                )
                running[name] = (request, started)
            result = self._manager.get_result(timeout=POLL_SECONDS)
            if result is None:
                raise RuntimeError("no answer comes")
            if result.is_finished():
                request, started = running.pop(result.request_id)
                if result.error or len(result.generated_tokens) != request.new_tokens:
                    raise RuntimeError(f"the answer failed: {result.error}")
                found.append(Answered(result.timestamps[0] - started, request.new_tokens))
        return found

    def memory_mib(self) -> float:
        return memory_mib()

    def close(self) -> None:
        self._manager.stop(block=True)
