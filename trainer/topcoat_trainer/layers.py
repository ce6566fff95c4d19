"""Finds the decoder stack of any causal language model, and the boundary between its frozen and its trained layers.

Changes only which layers are in training mode; knows nothing of adapters.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from transformers import PreTrainedModel

from topcoat_trainer import boundary as boundaries
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import BaseModelError


def named_stack(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The decoder layers and their dotted name, such as `model.layers`."""
    count = model.config.get_text_config().num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if len(found) > 1:  # a vision tower may have as many layers
        decoder = cast("Any", model).get_decoder()
        inside = {id(module) for module in decoder.modules()}
        found = [(name, module) for name, module in found if id(module) in inside]
    if len(found) != 1:
        raise BaseModelError(
            f"found {len(found)} lists of {count} layers in {type(model).__name__} instead of one",
            where="config.json",
            hint="choose another model family; its last layers cannot be told apart",
        )
    return found[0]


def stack(model: PreTrainedModel) -> nn.ModuleList:
    return named_stack(model)[1]


def boundary(model: PreTrainedModel, wanted: int | str, task_kind: str) -> Boundary:
    """The boundary for `method.layers` on this model."""
    return boundaries.choose(len(stack(model)), wanted, task_kind)


def tail(model: PreTrainedModel, edge: Boundary) -> list[nn.Module]:
    """The layers behind the boundary."""
    return list(stack(model))[edge.first_trained :]


def training_mode(model: PreTrainedModel, edge: Boundary) -> None:
    """The tail trains, with its dropout; what is frozen computes as it will when it serves, with none.

    So the frozen part is the same function in every step, cached or not.
    """
    model.eval()
    for layer in tail(model, edge):
        layer.train()
