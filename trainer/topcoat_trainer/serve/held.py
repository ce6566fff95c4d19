"""A version's weights kept beside the base model, ready to be put on it and taken off again within microseconds.

The base's modules and tensors are exchanged, never written: bare, it computes as before, bit for bit. Only the
engine's thread may call this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from topcoat_trainer import adapter, adapter_file
from topcoat_trainer.model import BaseModel


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module hangs: the base's own, and the version's (which has the base's inside)."""

    parent: nn.Module
    name: str
    plain: nn.Module
    tuned: nn.Module


@dataclass(frozen=True, slots=True)
class Swap:
    """A parameter, its base values, and the version's."""

    parameter: nn.Parameter
    plain: torch.Tensor
    tuned: torch.Tensor


@dataclass(frozen=True, slots=True)
class Held:
    """One version: LoRA has places, a full tail has swaps."""

    places: tuple[Place, ...] = ()
    swaps: tuple[Swap, ...] = ()

    def put_on(self) -> None:
        for place in self.places:
            setattr(place.parent, place.name, place.tuned)
        for swap in self.swaps:
            swap.parameter.data = swap.tuned

    def take_off(self) -> None:
        for place in self.places:
            setattr(place.parent, place.name, place.plain)
        for swap in self.swaps:
            swap.parameter.data = swap.plain


def held(base: BaseModel, folder: Path) -> Held:
    """The version of a folder, in memory. The base must be bare, and is so afterwards, also after an error."""
    if (folder / adapter_file.LORA.config).is_file():
        return _lora(base, folder)
    return _tail(base, folder)


def _lora(base: BaseModel, folder: Path) -> Held:
    with adapter.using(base, folder) as model:
        tuned = {
            name: (module, inner)
            for name, module in model.named_modules()
            if isinstance(inner := getattr(module, "base_layer", None), nn.Module)
        }
    places = []
    for name, (module, inner) in tuned.items():
        parent, _, last = name.rpartition(".")
        places.append(Place(base.model.get_submodule(parent), last, inner, module))
    return Held(places=tuple(places))


def _tail(base: BaseModel, folder: Path) -> Held:
    adapter_file.check(folder, base)
    parameters = dict(base.model.named_parameters())
    tensors = safetensors.torch.load_file(folder / adapter_file.TAIL.weights)
    swaps = []
    for name, tensor in tensors.items():
        parameter = parameters[name]
        swaps.append(Swap(parameter, parameter.data, tensor.to(parameter.device, parameter.dtype)))
    return Held(swaps=tuple(swaps))
