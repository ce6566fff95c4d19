"""Versions to serve: LoRA adapters on the last layers, made with PEFT, with random weights that change what is said."""

from __future__ import annotations

from pathlib import Path

import torch

from topcoat.api.method import LoRA, Method
from topcoat_trainer import adapter, boundary
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.model import BaseModel

RANK = 8
SPREAD = 0.02


def edge(base: BaseModel, last: int) -> Boundary:
    return boundary.choose(base.model.config.num_hidden_layers, last, "Generation")


def make(base: BaseModel, folder: Path, count: int, last: int) -> list[Path]:
    """Folders v0, v1, ... What is there already stays."""
    found = [folder / f"v{number}" for number in range(count)]
    for number, place in enumerate(found):
        if place.exists():
            continue
        tail = adapter.attach(base, Method(lora=LoRA(rank=RANK, alpha=2 * RANK)), edge(base, last), number)
        chance = torch.Generator().manual_seed(number)
        with torch.no_grad():
            for _, parameter in tail.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=chance) * SPREAD)
        adapter.export(tail, place, "benchmark")
        tail.detach()
    return found
