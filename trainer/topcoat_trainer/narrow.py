"""The last layer computes only what is asked for: behind its attention every token stands for itself alone.

Which modules may be told so is found out by trying, top down. Changes no weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

TOLERANCE = 1e-4
COARSE_TOLERANCE = 0.05
Outputs = Callable[[], torch.Tensor]


class _Narrow:
    """The hooks of one module: it sees the asked tokens in one sequence; who follows sees `filling` elsewhere."""

    def __init__(self, asked: torch.Tensor, filling: float) -> None:
        self._asked = asked
        self._filling = filling
        self._shape: tuple[int, ...] = ()

    def before(self, _: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        states = arguments[0]
        self._shape = tuple(states.shape[:-1])
        return (states.reshape(-1, states.shape[-1]).index_select(0, self._asked)[None], *arguments[1:])

    def after(self, _: nn.Module, __: Any, found: torch.Tensor) -> torch.Tensor:
        size = found.shape[-1]
        whole = found.new_full((math.prod(self._shape), size), self._filling)
        return whole.index_copy(0, self._asked, found[0]).view(*self._shape, size)


@contextmanager
def narrowed(modules: Sequence[nn.Module], selected: torch.Tensor, filling: float = 0.0) -> Iterator[None]:
    """Inside it the modules compute the selected flat positions only, and give `filling` elsewhere."""
    with ExitStack() as stack:
        if modules:
            asked = torch.unique(selected)
            for module in modules:
                hooks = _Narrow(asked, filling)
                stack.callback(module.register_forward_pre_hook(hooks.before).remove)
                stack.callback(module.register_forward_hook(hooks.after).remove)
        yield


def found(layer: nn.Module, outputs: Outputs, selected: torch.Tensor) -> tuple[nn.Module, ...]:
    """The modules of the last layer that may be narrowed to `selected`, where `outputs` is computed.

    They give NaN elsewhere meanwhile: had any of that an influence, the outputs would be NaN, too.
    """
    whole = outputs().float()
    scale = float(whole.abs().max().clamp_min(1e-3))
    tolerance = TOLERANCE if next(layer.parameters()).dtype is torch.float32 else COARSE_TOLERANCE
    chosen: list[nn.Module] = []
    waiting = list(layer.children())
    while waiting:
        module = waiting.pop(0)
        with narrowed([*chosen, module], selected, math.nan):
            try:
                difference = float((outputs().float() - whole).abs().max()) / scale
            except Exception:  # noqa: BLE001 (whatever it is, this module is not to be narrowed)
                difference = math.inf
        if difference <= tolerance:
            chosen.append(module)
        elif not _is_product(module):
            waiting += module.children()
    return tuple(module for module in chosen if _holds_products(module))


def _is_product(module: nn.Module) -> bool:
    """A linear layer, with or without an adapter, is narrowed as a whole or not at all."""
    return isinstance(module, nn.Linear) or hasattr(module, "base_layer")


def _holds_products(module: nn.Module) -> bool:
    """Norms and activations cost less than selecting for them."""
    return any(parameter.ndim >= 2 for parameter in module.parameters())
