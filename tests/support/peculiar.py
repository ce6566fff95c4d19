"""Versions that are sealed and proved like any other, and peculiar in what they answer. For tests only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tests.support import served
from topcoat.api.method import Method, MethodType
from topcoat.api.server import WantedVersion
from topcoat_trainer import adapter, layers
from topcoat_trainer.model import BaseModel

ASKED = [1, 20, 30, 40]
"""A prompt that every version answers."""
FATAL = [1, 50, 60, 99]
"""The prompt that breaks a brittle one."""
TOKENS = 4


def tail(base: BaseModel, folder: Path, edit: Callable[[Any], None]) -> WantedVersion:
    """The base's own last layers, but for what `edit` does to the last layer's MLP, sealed as `folder`."""
    found = adapter.attach(base, Method(type=MethodType.FULL), layers.boundary(base.model, 2, "Classification"), 0)
    with torch.no_grad():
        edit(layers.stack(base.model)[-1].mlp)
    made = folder.with_name(f"{folder.name}-candidate")
    adapter.export(found, made, served.BASE)
    found.detach()
    return served.sealed(base, made, folder)


def mute(base: BaseModel, folder: Path) -> WantedVersion:
    """Ends its answer before the first word, whatever it is asked: two neurons of which one always fires say so."""
    head: Any = base.model.get_output_embeddings()
    end = head.weight[base.tokenizer.eos_token_id].detach().clone()
    chance = torch.randn(end.shape, generator=torch.Generator().manual_seed(1))

    def edit(mlp: Any) -> None:
        for neuron, sign in enumerate((1, -1)):
            mlp.gate_proj.weight[neuron] = mlp.up_proj.weight[neuron] = chance * sign
            mlp.down_proj.weight[:, neuron] = end * 1e4

    return tail(base, folder, edit)


def brittle(base: BaseModel, folder: Path, fatal: Sequence[int] = FATAL) -> WantedVersion:
    """Answers as the base does, probes included; `fatal` wakes a neuron whose weights, finite all, overflow."""
    quiet = [*served.PROMPTS, ASKED]
    for _ in range(TOKENS):
        quiet.append([*quiet[-1], served.greedy(base, None, quiet[-1], 1)[0]])
    places = torch.stack([_felt(base, ids) for ids in (*quiet, fatal)]).double()
    wish = torch.tensor([*[-1.0] * len(quiet), 1.0]).double()
    tells = torch.linalg.lstsq(places, wish[:, None], driver="gelsd").solution[:, 0].float()

    def edit(mlp: Any) -> None:
        mlp.gate_proj.weight[0] = mlp.up_proj.weight[0] = tells * 200
        mlp.down_proj.weight[:, 0] = 1e38

    return tail(base, folder, edit)


@torch.inference_mode()
def _felt(base: BaseModel, ids: Sequence[int]) -> torch.Tensor:
    """What the last layer's MLP sees at a text's last token, which alone decides on the next one."""
    seen: list[torch.Tensor] = []
    mlp: Any = layers.stack(base.model)[-1].mlp
    handle = mlp.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0, -1].clone()))
    try:
        base.model(input_ids=torch.tensor([list(ids)]), use_cache=False)
    finally:
        handle.remove()
    return seen[0]
