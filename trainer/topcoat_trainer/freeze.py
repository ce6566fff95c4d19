"""Freezes all but the tail, and proves it: by name before training, by gradient after a step, by digest at the end.

Adds no parameter (adapter.py does) and trains nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from topcoat.api.method import Method, MethodType
from topcoat_trainer import layers
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import TrainerError, UserInputError

LORA_MARK = ".lora_"


@dataclass(frozen=True, slots=True)
class FreezeProof:
    """The parameters that train, all of them and no other."""

    trainable: tuple[str, ...]
    trainable_parameters: int
    total_parameters: int

    @property
    def share(self) -> float:
        return self.trainable_parameters / max(1, self.total_parameters)


def freeze(model: PreTrainedModel, edge: Boundary, method: Method) -> None:
    """Leaves gradients on for the intended parameters only: the adapter's, or for Full the tail layers' own."""
    wanted = set(_intended(model, edge, method))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


def prove(model: PreTrainedModel, edge: Boundary, method: Method) -> FreezeProof:
    """The proof, or TrainerError naming a parameter that trains though it may not, or the other way round."""
    intended = set(_intended(model, edge, method))
    actual = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if actual != intended:
        wrong = min(actual ^ intended)
        word = "would train, but must stay frozen" if wrong in actual else "must train, but is frozen"
        raise TrainerError(f"{len(actual ^ intended)} parameters are not as intended: {wrong} {word}")
    idle = [index for index, layer in zip(edge.indices, layers.tail(model, edge), strict=True) if not _trains(layer)]
    if idle or not actual:
        raise TrainerError(f"nothing trains in layer {idle[0] if idle else edge.first_trained}", where="method")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return FreezeProof(tuple(sorted(actual)), sum(sizes[name] for name in actual), sum(sizes.values()))


def prove_gradients(model: PreTrainedModel, proof: FreezeProof) -> None:
    """After a backward pass: no frozen parameter has received a gradient."""
    allowed = set(proof.trainable)
    strays = [name for name, p in model.named_parameters() if p.grad is not None and name not in allowed]
    if strays:
        raise TrainerError(f"{len(strays)} frozen parameters received a gradient, first {strays[0]}")


def digest(model: PreTrainedModel, proof: FreezeProof | None = None) -> str:
    """SHA-256 over all frozen tensors. Equal before, during and after the training of an adapter beside them."""
    trained = set(proof.trainable) if proof else set()
    total = hashlib.sha256()
    for name, tensor in sorted(_tensors(model), key=lambda pair: pair[0]):
        if name not in trained and LORA_MARK not in name:
            plain = name.replace(".base_layer", "")
            total.update(f"{plain} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            total.update(_raw(tensor))
    return total.hexdigest()


def _raw(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return cast("Any", flat.view(torch.uint8).numpy()).data  # type: ignore[no-any-return]  # numpy types it so


def _tensors(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _intended(model: PreTrainedModel, edge: Boundary, method: Method) -> list[str]:
    stack_name, _ = layers.named_stack(model)
    homes = tuple(f"{stack_name}.{index}." for index in edge.indices)
    inside = [(name, p) for name, p in model.named_parameters() if name.startswith(homes)]
    if method.type != MethodType.FULL:
        return [name for name, _ in inside if LORA_MARK in name]
    _refuse_shared(model, homes)
    return [name for name, parameter in inside if parameter.is_floating_point()]


def _refuse_shared(model: PreTrainedModel, homes: tuple[str, ...]) -> None:
    """A weight that a frozen layer uses too cannot be trained alone."""
    everywhere = list(model.named_parameters(remove_duplicate=False))
    tail_ids = {id(p) for name, p in everywhere if name.startswith(homes)}
    shared = [name for name, p in everywhere if id(p) in tail_ids and not name.startswith(homes)]
    if shared:
        raise UserInputError(
            f"the last layers share their weights with others ({shared[0]})",
            where="method.type",
            hint="use method.type LoRA for this model, or method.layers All",
        )


def _trains(layer: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in layer.parameters())
