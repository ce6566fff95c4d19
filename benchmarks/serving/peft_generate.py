"""PEFT's way to several adapters in one process: `generate` with a name for each row, one fixed batch after another."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import peft
import torch
import transformers

from benchmarks.serving.figures import Answered, memory_mib
from benchmarks.serving.load import Request
from benchmarks.serving.subject import CONCURRENCY, Order

BASE = "__base__"


class First(transformers.generation.BaseStreamer):  # type: ignore[name-defined,misc]  # transformers' export is lazy
    """Notes when the first tokens of a batch come; the prompt comes before."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds = 0.0
        self._calls = 0

    def put(self, _: torch.Tensor) -> None:
        self._calls += 1
        if self._calls == 2:
            self.seconds = time.perf_counter() - self.started

    def end(self) -> None:
        pass


class Peft:
    """Batches of CONCURRENCY: the best size there is at this concurrency, as smaller ones only leave rows idle."""

    def __init__(self, order: Order) -> None:
        torch.set_num_threads(order.threads)
        factory: Any = transformers.AutoModelForCausalLM
        self._model: Any = factory.from_pretrained(order.model, dtype=torch.float32).eval()
        for number, folder in enumerate(order.folders):
            if number:
                self._model.load_adapter(str(folder), f"v{number}")
            else:
                self._model = peft.PeftModel.from_pretrained(self._model, str(folder), "v0").eval()
        self._adapted = bool(order.folders)

    def answer(self, asked: Sequence[Request]) -> list[Answered]:
        found = []
        for start in range(0, len(asked), CONCURRENCY):
            found += self._batch(asked[start : start + CONCURRENCY])
        return found

    @torch.inference_mode()
    def _batch(self, asked: Sequence[Request]) -> list[Answered]:
        width = max(len(request.ids) for request in asked)
        pads = [width - len(request.ids) for request in asked]
        ids = torch.tensor([[0] * pad + list(request.ids) for pad, request in zip(pads, asked, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        longest = max(request.new_tokens for request in asked)
        names = [BASE if request.version is None else f"v{request.version}" for request in asked]
        more: dict[str, Any] = {"adapter_names": names} if self._adapted else {}
        first = First()
        made = self._model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=longest, min_new_tokens=longest, do_sample=False,
            pad_token_id=0, streamer=first, **more,
        )  # fmt: skip
        if made.shape[1] != width + longest:
            raise RuntimeError("an answer ended early")
        return [Answered(first.seconds, request.new_tokens) for request in asked]

    def memory_mib(self) -> float:
        return memory_mib()

    def close(self) -> None:
        pass
