"""AdamW, its learning rate over time, and its state as named tensors, so that no pickle is ever written.

Decides nothing about which parameters are trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from topcoat.api.training import Scheduler

MOMENTS = ("exp_avg", "exp_avg_sq")
Parameters = Mapping[str, torch.nn.Parameter]


def learning_rate(step: int, total_steps: int, *, peak: float, warmup_ratio: float, scheduler: Scheduler) -> float:
    """The rate of a step, counted from 0: it rises over the warm-up, then follows its course and ends above 0."""
    warmup = math.ceil(total_steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / (warmup + 1)
    done = (step - warmup) / max(1, total_steps - warmup)
    if scheduler is Scheduler.LINEAR:
        return peak * (1.0 - done)
    if scheduler is Scheduler.COSINE:
        return peak * 0.5 * (1.0 + math.cos(math.pi * done))
    return peak


def _decays(name: str, parameter: torch.nn.Parameter) -> bool:
    """Weights decay; biases, norms and other vectors do not."""
    return parameter.ndim >= 2 and "norm" not in name.rsplit(".", 2)[-2 if "." in name else 0].lower()


def adamw(parameters: Parameters, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with its state already there, so that memory runs out before the first step or never."""
    kinds = {True: weight_decay, False: 0.0}
    groups = [
        {"params": [p for name, p in parameters.items() if _decays(name, p) is decays], "weight_decay": decay}
        for decays, decay in kinds.items()
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=0.0, betas=(0.9, 0.999), fused=True
    )
    for parameter in parameters.values():
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=parameter.device),
            **{moment: torch.zeros_like(parameter) for moment in MOMENTS},
        }
    return optimizer


def set_rate(optimizer: torch.optim.AdamW, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def state(optimizer: torch.optim.AdamW, parameters: Parameters) -> dict[str, torch.Tensor]:
    """The optimizer's state as named tensors on the CPU."""
    return {
        f"{part}/{name}": optimizer.state[parameter][part].detach().cpu().contiguous()
        for name, parameter in parameters.items()
        for part in ("step", *MOMENTS)
    }


def tensors(optimizer: torch.optim.AdamW, parameters: Parameters) -> list[torch.Tensor]:
    """The optimizer's state itself, in a fixed order."""
    return [optimizer.state[parameter][part] for parameter in parameters.values() for part in ("step", *MOMENTS)]


def restore(optimizer: torch.optim.AdamW, parameters: Parameters, tensors: Mapping[str, torch.Tensor]) -> None:
    """Puts saved state back, in place."""
    for name, parameter in parameters.items():
        for part in ("step", *MOMENTS):
            optimizer.state[parameter][part].copy_(tensors[f"{part}/{name}"])
