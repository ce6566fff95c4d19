"""The base model beside versions on a vLLM: answered for by a version that changes nothing, and only if that is proved.

vLLM 0.32 gives a base request of a mixed batch, on a CPU, to whatever version stands in the last slot (vllm #48421,
#49656). A request that names a version gets that version, so the base is made one: a LoRA whose numbers are zero.
"""

from __future__ import annotations

import asyncio
import logging
import math
import shutil
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from topcoat_trainer import adapter_file
from topcoat_trainer.serve.engine import EngineLost
from topcoat_trainer.serve.vllm_http import VLLM, Refused, asked, largest, numbers

NOT_YET = "it is answered for once a version is loaded beside which that is proved"
LIKELIEST = 5
TOKENS = 4
"""Few, so that no prompt and answer together fill a block that vLLM would keep for others."""
CROWD_TOKENS = 48
ROUNDS = 3
log = logging.getLogger(__name__)
Answer = list[tuple[int, dict[int, float]]]
"""Each token, and the likeliest in its place."""


class Base:
    """The base model of one vLLM, for one life of its process. `near`: how far log-probabilities may be apart."""

    def __init__(self, http: VLLM, base_name: str, near: float) -> None:
        self._http = http
        self._base_name = base_name
        self._near = near
        self._alone: list[Answer] = []
        self._prompts: list[tuple[int, ...]] = []
        self.name = ""
        """The version that changes nothing; empty: there is none yet."""
        self._wrong = False
        self.problem = NOT_YET
        """Why the base is not answered for; empty: it is."""

    async def listen(self, vocabulary: int) -> None:
        """What the base answers alone. Nothing may be loaded yet."""
        self._prompts = [tuple((7 + 31 * start + 13 * step) % vocabulary for step in range(6)) for start in range(4)]
        self._alone = [await self._answer(self._base_name, prompt) for prompt in self._prompts]

    async def enter(self, name: str, folder: Path, version: Path) -> None:
        """Loads a version that changes nothing, made after the shape of another."""
        _emptied(version, folder)
        await self._http.load(name, str(folder))
        self.name = name

    async def prove(self, beside: str) -> None:
        """Compares the base among a version's requests with the base alone. What was once wrong stays refused."""
        if self._wrong:
            return
        try:
            difference = await self._beside(beside)
        except (Refused, TimeoutError) as error:
            self.problem = f"it could not be compared with itself alone ({type(error).__name__})"
        else:
            self._wrong = difference > self._near
            wrong = f"beside a version it differs from itself alone by {difference:.3g}, allowed is {self._near:g}"
            self.problem = wrong if self._wrong else ""
        if self.problem:
            log.error("the base model is not answered for: %s", self.problem)

    async def _beside(self, version: str) -> float:
        """The largest difference while a version's answers are being made in the same batch."""
        crowd = [asyncio.create_task(self._drone(version, prompt)) for prompt in self._prompts]
        try:
            worst = 0.0
            for _ in range(ROUNDS):
                found = await asyncio.gather(*(self._answer(self.name, prompt) for prompt in self._prompts))
                worst = max(worst, *map(_difference, self._alone, found))
            return worst
        finally:
            for task in crowd:
                task.cancel()
            await asyncio.gather(*crowd, return_exceptions=True)

    async def _drone(self, version: str, prompt: tuple[int, ...]) -> None:
        """Keeps a version talking until it is cancelled."""
        body = {**asked(version, prompt), "max_tokens": CROWD_TOKENS}
        with suppress(Refused, EngineLost, TimeoutError):
            while True:
                await _drained(self._http.stream(body))

    async def _answer(self, model: str, prompt: tuple[int, ...]) -> Answer:
        body = {**asked(model, prompt), "max_tokens": TOKENS, "logprobs": LIKELIEST}
        choice = await self._http.complete(body)
        return list(zip(choice["token_ids"], map(numbers, choice["logprobs"]["top_logprobs"]), strict=True))


async def _drained(pieces: AsyncGenerator[Any, None]) -> None:
    async with aclosing(pieces):
        async for _ in pieces:
            pass


def _difference(alone: Answer, beside: Answer) -> float:
    """Up to the first token that differs; that one still counts, by the tokens that both name."""
    worst = 0.0
    for (token, left), (other, right) in zip(alone, beside, strict=True):
        worst = largest([worst, *(abs(left[one] - right[one]) for one in left.keys() & right.keys())])
        if token != other or worst == math.inf:
            return worst if token in right else math.inf
    return worst


def _emptied(version: Path, folder: Path) -> None:
    """A copy of a LoRA whose tensors are all zero."""
    folder.mkdir()
    shutil.copy(version / adapter_file.LORA.config, folder)
    tensors = safetensors.torch.load_file(version / adapter_file.LORA.weights)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    safetensors.torch.save_file(zeros, folder / adapter_file.LORA.weights)


def names(found: Sequence[dict[str, Any]]) -> list[str]:
    """Of the cards those that are versions."""
    return [str(card["id"]) for card in found if card.get("parent")]
