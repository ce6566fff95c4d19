"""Linear layers of frozen weights, laid out as oneDNN wants them: on a CPU in fp32 1.3 to 3 times as quick.

The packed weights take the place of the plain ones, so memory stays; `unpack` brings them back, bit for bit. The same
sums, rounded elsewhere. For inference only. https://uxlfoundation.github.io/oneDNN/dev_guide_inner_product.html
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

LARGEST_TOKENS, SMALLEST_TOKENS = 256, 16
"""A product is cut into powers of two in between, and its rest filled up to one: every new number of tokens costs
0.7 MB of code, made at its first use, and oneDNN keeps it."""
TOLERANCE = 1e-4
"""Of a sum's size; wrong weights differ by all of it."""
log = logging.getLogger(__name__)


class PackedLinear(nn.Linear):
    """A linear layer that `pack` has changed. `weight` has its shape but not its numbers, unless others share it."""

    packed: torch.Tensor
    shared: bool

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 (nn.Linear's name)
        lines = input.reshape(-1, self.in_features)
        tokens = len(lines)
        if tokens in _WHOLE:
            out = self._product(lines)
        else:
            out = lines.new_empty(tokens, self.out_features)
            for start, stop in _cuts(tokens):
                out[start:stop] = self._product(lines[start:stop])
        return out.view(*input.shape[:-1], self.out_features)

    def _product(self, lines: torch.Tensor) -> torch.Tensor:
        tokens = len(lines)
        if tokens not in _WHOLE:
            lines = nn.functional.pad(lines, (0, 0, 0, _filled(tokens) - tokens))
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(lines, self.packed, self.bias, "none", [], "")  # noqa: SLF001
        return product[:tokens]


_WHOLE = frozenset(1 << power for power in range(LARGEST_TOKENS.bit_length()))


def _filled(tokens: int) -> int:
    return 1 << (tokens - 1).bit_length()


def _cuts(tokens: int) -> Iterator[tuple[int, int]]:
    """The largest powers of two one after the other, and what is left."""
    start = 0
    while (left := tokens - start) > 0:
        size = min(LARGEST_TOKENS, 1 << (left.bit_length() - 1))
        size = size if size >= SMALLEST_TOKENS else left
        yield start, start + size
        start += size


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
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), SMALLEST_TOKENS)  # noqa: SLF001
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
