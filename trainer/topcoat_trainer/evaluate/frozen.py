"""What the frozen layers make of prompts, kept from the first reading: base, serving and candidate differ only behind.

Held in memory, up to a limit, while a court sits. Every reading is split at the same layer, whoever's weights are in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from topcoat_trainer import layers
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.halves import Halves
from topcoat_trainer.prefix import Ids
from topcoat_trainer.sequel import Memory

Key = tuple[Ids, ...]


class Frozen:
    """Hidden states at one boundary, and keys and values of the layers before it, by what was read together."""

    def __init__(self, model: Any, first_trained: int, limit_bytes: int) -> None:
        self.halves = Halves(model, Boundary(first_trained, len(layers.stack(model))))
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._kept: dict[Key, tuple[torch.Tensor, Memory]] = {}

    def begun(self, prompts: Sequence[Ids], inputs: dict[str, Any], memory: Memory) -> tuple[torch.Tensor, Memory]:
        """The state at the boundary, and a memory with what the layers before it saw; computed if it is not kept.

        `memory`: the empty one that attention fills meanwhile.
        """
        key = tuple(map(tuple, prompts))
        if key in self._kept:
            hidden, seen = self._kept[key]
            return hidden, seen.beginning(self.halves.edge.first_trained)
        hidden = self.halves.capture(inputs)
        seen = memory.beginning(self.halves.edge.first_trained)
        size = seen.size_bytes + hidden.nbytes
        if self.size_bytes + size <= self.limit_bytes:
            self._kept[key] = (hidden, seen)
            self.size_bytes += size
        return hidden, memory

    @contextmanager
    def behind(self, hidden: torch.Tensor) -> Iterator[None]:
        """Inside it the model's forward begins at the boundary."""
        with self.halves.injected(hidden):
            yield

    def forget(self) -> None:
        self._kept.clear()
        self.size_bytes = 0
