"""Our engine with tiny versions on it, asked many things at once; and what stock transformers and PEFT answer."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.support import served, tiny_models
from topcoat_trainer import adapter, model, model_file
from topcoat_trainer.model import BaseModel
from topcoat_trainer.serve.engine import Ask, Piece, Sampling
from topcoat_trainer.serve.transformers_engine import TransformersEngine

NEAR = 1e-4
"""How far a log-probability may be from the stock model's, in fp32."""


@dataclass
class Stand:
    """A base model and folders of versions. v1, v2: LoRA of different ranks; v3, v4: full tails; v5: LoRA with DoRA."""

    base: BaseModel
    folders: dict[str | None, Path | None] = field(default_factory=dict)

    @property
    def keys(self) -> list[str | None]:
        return list(self.folders)

    def greedy(self, key: str | None, ids: Sequence[int], tokens: int) -> list[int]:
        """Stock transformers' `generate`, for LoRA on stock PEFT; without what ends the answer."""
        made = served.greedy(self.base, self.folders[key], list(ids), tokens)
        return made[: made.index(2)] if 2 in made else made

    def table(self, key: str | None, ids: Sequence[int]) -> torch.Tensor:
        """The stock model's log-probabilities behind every token."""
        with adapter.using(self.base, self.folders[key]) as tuned, torch.no_grad():
            found: torch.Tensor = tuned(torch.tensor([list(ids)])).logits[0].log_softmax(-1)
        return found


def stand(folder: Path, family: str = "llama", **changes: Any) -> Stand:
    try:
        base = served.base(folder / "base", family, **changes)
    except StopIteration:  # a head of another name: it stays as it is
        base = model.load(folder / "base")
    made = Stand(base, {None: None})
    for seed, (name, kind, rank) in enumerate(
        [("v1", "lora", 8), ("v2", "lora", 16), ("v3", "tail", 8), ("v4", "tail", 8), ("v5", "dora", 8)]
    ):
        made.folders[name] = served.candidate(base, folder / name, seed + 1, kind=kind, rank=rank)
    return made


def prompt(start: int, length: int) -> tuple[int, ...]:
    return (1, *(20 + (7 * number + 13 * start) % 200 for number in range(length - 1)))


def run(stand: Stand, work: Callable[[TransformersEngine], Awaitable[Any]], slots: int = 16, **limits: Any) -> Any:
    """Work with an engine that has every version loaded."""

    async def started() -> Any:
        facts = model_file.inspect(stand.base.path)
        engine = await TransformersEngine.started(facts, slots, frozenset(), **limits)
        try:
            for key, folder in stand.folders.items():
                if key is not None and folder is not None:
                    await engine.load(key, folder)
            return await work(engine)
        finally:
            engine.close()

    return asyncio.run(started())


async def answer(engine: TransformersEngine, ask: Ask) -> list[Piece]:
    return [piece async for piece in engine.generate(ask)]


def ask(key: str | None, ids: Sequence[int], tokens: int, **more: Any) -> Ask:
    scored = more.pop("scored", False)
    return Ask(key, str(key), tuple(ids), Sampling(tokens, **{"top": 0, **more}), scored)


def words(base: BaseModel, ids: Sequence[int]) -> list[str]:
    return [str(base.tokenizer.decode([token])) for token in ids]


def said(pieces: Sequence[Piece]) -> list[str]:
    return [token.text for piece in pieces for token in piece.tokens]


def tensor_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    tensors = [thing for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter)]
    found = {}
    for tensor in tensors:
        if tensor.is_mkldnn:
            found[id(tensor)] = tensor.numel() * tensor.element_size()
        elif tensor.device.type == "cpu":
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(found.values())


FAMILIES = [family for family in tiny_models.FAMILIES if family != "falcon"]
"""Falcon asks for attention in a way of its own and is computed one text at a time."""
