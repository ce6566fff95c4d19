"""Linear layers of frozen weights, laid out as oneDNN wants them: on a CPU in fp32 1.3 to 3 times as quick.

The packed weights take the place of the plain ones, so memory stays; `unpack` brings them back, bit for bit. The same
sums, rounded elsewhere. For inference only. https://uxlfoundation.github.io/oneDNN/dev_guide_inner_product.html
"""

from __future__ import annotations

import ctypes
import logging
from bisect import bisect_left
from collections import Counter
from contextlib import suppress
from typing import Any

import torch
from torch import nn

SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256)
"""Tokens in one product; what is left over is filled up. A second product would read all weights once more, which costs
as much as 40 tokens; and every new size costs code, made at its first use, which oneDNN keeps (4 MB for a model)."""
BLOCK = 16
"""Tokens that the layout is chosen for."""
TOLERANCE = 1e-4
"""Of a sum's size; wrong weights differ by all of it."""
log = logging.getLogger(__name__)


class PackedLinear(nn.Linear):
    """A linear layer that `pack` has changed. `weight` has its shape but not its numbers, unless others share it."""

    packed: torch.Tensor
    shared: bool

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.Linear's name)
        lines = input.reshape(-1, self.in_features)
        if len(lines) <= SIZES[-1]:
            out = self._product(lines)
        else:
            out = lines.new_empty(len(lines), self.out_features)
            for start in range(0, len(lines), SIZES[-1]):
                part = slice(start, start + SIZES[-1])
                out[part] = self._product(lines[part])
        return out.view(*input.shape[:-1], self.out_features)

    def _product(self, lines: torch.Tensor) -> torch.Tensor:
        tokens = len(lines)
        size = SIZES[bisect_left(SIZES, tokens)]
        if size != tokens:
            lines = nn.functional.pad(lines, (0, 0, 0, size - tokens))
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(lines, self.packed, self.bias, "none", [], "")  # noqa: SLF001
        return product[:tokens]


def pack_all(model: nn.Module) -> int:
    """Packs every plain linear layer of the model; returns how many. 0 where oneDNN is not there or computes wrongly.

    A layer that shares its weight (a head with the embedding) keeps the plain one besides.
    """
    holders = Counter(id(value) for _, value in model.named_parameters(remove_duplicate=False))
    plain = [module for module in model.modules() if packable(module)]
    for number, module in enumerate(plain):
        if not pack(module, shared=holders[id(module.weight)] > 1):
            for done in plain[:number]:
                unpack(done)
            return 0
    _return_freed()
    return len(plain)


def packable(module: nn.Module) -> bool:
    """Whether it is a plain linear layer, on a CPU, in fp32."""
    if type(module) is not nn.Linear or not torch.backends.mkldnn.is_available():
        return False
    return module.weight.device.type == "cpu" and module.weight.dtype is torch.float32


@torch.no_grad()
def pack(module: Any, *, shared: bool = False) -> bool:
    """Packs a layer in its place, once it was tried. `shared`: others need its plain weight, too."""
    weight = module.weight
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), BLOCK)  # noqa: SLF001
        module.packed, module.shared, module.__class__ = packed, shared, PackedLinear
        right = _agrees(module, weight)
    except (AttributeError, RuntimeError) as error:  # torch says nothing of these two operators' future
        log.warning("weights are not packed, because oneDNN's way failed (%s)", type(error).__name__)
        right = False
    if not right:
        _plain_again(module)
        return False
    if not shared:
        # No memory, the right shape, and nothing that could be taken for a weight.
        module.weight = nn.Parameter(torch.full((1, 1), torch.nan).expand(weight.shape), requires_grad=False)
    return True


def _agrees(module: PackedLinear, weight: torch.Tensor) -> bool:
    """One line of different numbers through both."""
    line = torch.linspace(-1, 1, module.in_features)[None, :]
    plain = nn.functional.linear(line, weight, module.bias)
    most = float(nn.functional.linear(line.abs(), weight.abs()).max())
    return bool((module(line) - plain).abs().max() <= TOLERANCE * most)


@torch.no_grad()
def unpack(module: Any) -> None:
    """The plain layer again, with the same bits. Nothing happens to a module that is not packed."""
    if not isinstance(module, PackedLinear):
        return
    if not module.shared:
        module.weight = nn.Parameter(module.packed.to_dense(), requires_grad=False)
    _plain_again(module)


def _plain_again(module: Any) -> None:
    for name in ("packed", "shared"):
        vars(module).pop(name, None)
    module.__class__ = nn.Linear


def _return_freed() -> None:
    """The plain weights' memory goes back to the machine: glibc would keep it, 400 MB for a 135M model."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
