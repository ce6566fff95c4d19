"""PEFT's LoRA layers, computed with fewer passes over memory: the same products and sums, in fp32 on a CPU.

PEFT keeps the parameters and their names; only the layers' forward is exchanged. LoRA: Hu et al. 2021,
https://arxiv.org/abs/2106.09685 (y = W x + s B A x).
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import nn


class _Product(torch.autograd.Function):
    """`lines` [tokens, in] -> [tokens, out] for a frozen weight [out, in] and an adapter of rank r (`down` [r, in],
    `up` [out, r]).
    """

    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 (autograd gives arguments by place)
        ctx: Any,
        lines: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        scale: float,
    ) -> torch.Tensor:
        out = torch.mm(lines, weight.t()) if bias is None else torch.addmm(bias, lines, weight.t())
        low = torch.mm(lines, down.t())
        ctx.save_for_backward(lines, weight, down, up, low)
        ctx.scale = scale
        return out.addmm_(low, up.t(), alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        lines, weight, down, up, low = ctx.saved_tensors
        given = gradients[0]
        inner = torch.mm(given, up).mul_(ctx.scale)
        back = torch.mm(given, weight).addmm_(inner, down) if ctx.needs_input_grad[0] else None
        return back, None, None, torch.mm(inner.t(), lines), torch.mm(given.t(), low).mul_(ctx.scale), None


def fuse(model: nn.Module) -> int:
    """Exchanges the forward of every layer that allows it; returns how many. They keep their parameters and names."""
    fusible = [module for module in model.modules() if isinstance(module, Linear) and _fits(module)]
    for module in fusible:
        module.forward = _Forward(module)  # type: ignore[method-assign, assignment]  # nn.Module calls the instance's own
    return len(fusible)


class _Forward:
    """The exchanged forward of one layer; what it was not made for goes PEFT's way."""

    def __init__(self, layer: Linear) -> None:
        self._layer = layer
        self._plain = layer.forward
        self._name = layer.active_adapters[0]

    def __call__(self, states: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        layer, name = self._layer, self._name
        odd = more or named or layer.merged or layer.disable_adapters or layer.active_adapters != [name]
        if odd or states.dtype is not torch.float32 or torch.is_autocast_enabled("cpu"):
            found: torch.Tensor = self._plain(states, *more, **named)
            return found
        base: Any = layer.base_layer
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        lines = states.reshape(-1, states.shape[-1])
        out: torch.Tensor = _Product.apply(lines, base.weight, base.bias, down, up, layer.scaling[name])
        return out.view(*states.shape[:-1], -1)


def _fits(layer: Any) -> bool:
    """Plain LoRA without dropout over a plain linear layer, all of it in fp32 on a CPU."""
    if type(layer.base_layer) is not nn.Linear or len(layer.active_adapters) != 1 or layer.fan_in_fan_out:
        return False
    name = layer.active_adapters[0]
    if name not in layer.lora_A or layer.lora_variant.get(name) or layer.lora_bias.get(name):
        return False
    parts = [layer.base_layer.weight, layer.lora_A[name].weight, layer.lora_B[name].weight]
    plain = all(part.device.type == "cpu" and part.dtype is torch.float32 for part in parts)
    return plain and isinstance(layer.lora_dropout[name], nn.Identity)
