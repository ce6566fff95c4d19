"""What a version changes, module by module, read from its folder: low-rank pairs, or modules of its own.

Nothing of the base is copied. The base must be bare, and is so afterwards; only the engine's thread may call this.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft.tuners.lora import Linear
from torch import nn

from topcoat_trainer import adapter, adapter_file, packed
from topcoat_trainer.model import BaseModel
from topcoat_trainer.packed import PackedLinear
from topcoat_trainer.serve.stack import Pair


@dataclass(slots=True)
class Tuned:
    """`boundary`: the first layer that the version changes; before it, it is the base."""

    boundary: int
    pairs: dict[str, Pair] = field(default_factory=dict)
    modules: dict[str, nn.Module] = field(default_factory=dict)


def tuned(base: BaseModel, folder: Path) -> Tuned:
    """The version of a folder."""
    facts = adapter_file.check(folder, base)
    found = Tuned(min(facts.layers))
    if facts.kind is adapter_file.TAIL:
        found.modules = _modules(base, folder)
        return found
    with adapter.using(base, folder) as model:
        layers = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
        for name, layer in layers.items():
            pair = _pair_or_none(layer)
            if pair is not None:
                found.pairs[name] = pair
            else:
                found.modules[name] = layer
    for module in found.modules.values():
        # PEFT's layer reads the base's weights, and calls its module, which must then compute these tokens only, and
        # as the base.
        packed.unpack(module.get_submodule("base_layer"))
        module.register_module("base_layer", _twin(module.get_submodule("base_layer")))
    return found


def _pair_or_none(layer: Any) -> Pair | None:
    """The two factors; None where a layer does more than add their product."""
    name = "default"
    if layer.use_dora.get(name) or layer.lora_variant.get(name) or layer.lora_bias.get(name):
        return None
    with torch.no_grad():
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        return Pair(down.detach().clone(), (up.detach().t() * layer.scaling[name]).contiguous())


def _modules(base: BaseModel, folder: Path) -> dict[str, nn.Module]:
    tensors = safetensors.torch.load_file(folder / adapter_file.TAIL.weights)
    found: dict[str, nn.Module] = {}
    for name, tensor in tensors.items():
        place, _, last = name.rpartition(".")
        if place not in found:
            found[place] = _twin(base.model.get_submodule(place))
        plain = found[place].get_parameter(last)
        found[place].register_parameter(last, nn.Parameter(tensor.to(plain.device, plain.dtype), requires_grad=False))
    for place, module in found.items():
        if isinstance(base.model.get_submodule(place), PackedLinear):
            packed.pack(module)
    return found


def _twin(module: nn.Module) -> nn.Module:
    """The same module with the same tensors, whose parameters may be exchanged without touching the first one."""
    twin = copy.copy(module)
    inside = vars(twin)
    inside["_parameters"] = dict(inside["_parameters"])
    inside.pop("forward", None)
    packed.unpack(twin)
    return twin
