"""One short training, whole or from kept states, and all the bits that came of it; for tests of the activation cache.

For tests only. Steps as the loop takes them: autocast in half precision, the loss in fp32, AdamW.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from transformers import PreTrainedModel

from tests.support import architectures, tiny_models
from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, batches, freeze, layers
from topcoat_trainer.batches import Batch
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.head import logits_everywhere
from topcoat_trainer.loop import loss as losses
from topcoat_trainer.model import BaseModel

METHODS = {"LoRA": Method(lora=LoRA(rank=8, dropout="0.1")), "Full": Method(type="Full")}
TRAINED_LAYERS = 2

Around = Callable[[Batch], AbstractContextManager[Any]]


def whole(_: Batch) -> AbstractContextManager[Any]:
    """Around a batch that runs through all layers."""
    return nullcontext()


def rows(count: int, seed: int = 0, length: int = 0) -> list[TokenRow]:
    """Random rows of 4 to 40 tokens, or of `length`; the second half of each is learnt."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        size = length or chance.randint(4, 40)
        ids = tuple(chance.randrange(4, 290) for _ in range(size))
        made.append(TokenRow(ids, tuple(place >= size // 2 for place in range(size)), size // 2, Example(number + 1)))
    return made


def edge(model: PreTrainedModel) -> Boundary:
    total = len(layers.stack(model))
    return Boundary(total - TRAINED_LAYERS, total)


@functools.cache
def packs(name: str, dtype: torch.dtype) -> bool:
    """Whether rows of this architecture may share a sequence, as the product finds out."""
    model = architectures.make(name, dtype)
    return not batches.misfit(model, rows(3), lambda batch: logits_everywhere(model, batch.inputs(), batch.selected))


def computing(dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Inside it the model computes as in the loop."""
    return torch.autocast("cpu", dtype, enabled=dtype is not torch.float32)


class Trial:
    """One architecture with a fresh tail, always the same. `bits` trains it."""

    def __init__(self, name: str, kind: str, dtype: torch.dtype) -> None:
        # Weights that train in full are kept in FP32 and computed with in the run's precision, as the product does.
        model = architectures.make(name, torch.float32 if kind == "Full" else dtype)
        self.dtype = dtype
        # In half precision rounding would hide what a state carries from row to row.
        self.packing = packs(name, torch.float32)
        base = BaseModel(model, tiny_models.tokenizer(), cast("Any", None), "cpu", model.dtype)
        self.tail = adapter.attach(base, METHODS[kind], edge(model), 1)
        self.halves = Halves(model, self.tail.boundary)

    def capture(self, batch: Batch) -> torch.Tensor:
        with computing(self.dtype):
            return self.halves.capture(batch.inputs())

    def bits(self, steps: Sequence[Batch], around: Around) -> list[bytes]:
        """The loss of each step, and at last the trained tensors, as bytes."""
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW([parameter for _, parameter in self.tail.parameters()], lr=1e-2)
        before = self._weights()
        seen = []
        for batch in steps:
            with around(batch), computing(self.dtype):
                logits = logits_everywhere(self.tail.model, batch.inputs(), batch.selected)
                loss = losses.summed(logits, batch.targets) / len(batch.targets)
            torch.autograd.backward(loss)
            freeze.prove_gradients(self.tail.model, self.tail.proof)
            optimizer.step()
            optimizer.zero_grad()
            seen.append(_bytes(loss))
        after = self._weights()
        assert sum(one != other for one, other in zip(before, after, strict=True)) > len(after) // 2
        return [*seen, *after]

    def _weights(self) -> list[bytes]:
        return [_bytes(tensor) for tensor in self.tail.state().values()]


def _bytes(tensor: torch.Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
