"""Low-rank pairs of one module and one rank, one behind the other, so that one call computes many versions' shares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from topcoat_trainer.serve.table import Grid, Product, Table


@dataclass(frozen=True, slots=True)
class Pair:
    """A LoRA: `down` rank × inputs, `up` rank × outputs, scaling included."""

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        return len(self.down)


@dataclass(frozen=True, slots=True)
class Stack:
    """`keys`: the versions in order. `down`: versions × rank × inputs. `up`: versions × rank × outputs."""

    keys: tuple[str, ...]
    down: torch.Tensor
    up: torch.Tensor

    def pair(self, place: int) -> Pair:
        """A view, no copy."""
        return Pair(self.down[place], self.up[place])

    def add(self, table: Table, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        """Adds to each token's line of `outputs` what its version makes of its line of `inputs`."""
        for product in table.products(self.keys):
            if isinstance(product, Product):
                self._one(product, inputs, outputs)
            else:
                self._many(product, inputs, outputs)

    def _one(self, product: Product, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        down, up, target = self.down[product.place], self.up[product.place], outputs[product.tokens]
        inner = inputs[product.tokens].to(down.dtype) @ down.t()
        if target.dtype == up.dtype:
            target.addmm_(inner, up)
        else:
            target.copy_(target + inner @ up)

    def _many(self, grid: Grid, inputs: torch.Tensor, outputs: torch.Tensor) -> None:
        down, up = self.down, self.up
        if grid.places is not None:
            down, up = down[grid.places], up[grid.places]
        lines = inputs[grid.read].to(down.dtype).view(len(down), grid.width, -1)
        shares = torch.bmm(torch.bmm(lines, down.transpose(1, 2)), up).view(-1, outputs.shape[-1])
        outputs[grid.tokens] = (outputs[grid.tokens] + shares[grid.cells]).to(outputs.dtype)


def stacks(pairs: Mapping[str, Pair]) -> list[Stack]:
    """One for each rank, versions in the order of their keys: so they stand in a step."""
    found = []
    for rank in sorted({pair.rank for pair in pairs.values()}):
        keys = sorted(key for key, pair in pairs.items() if pair.rank == rank)
        down, up = (torch.stack(some) for some in zip(*((pairs[key].down, pairs[key].up) for key in keys), strict=True))
        found.append(Stack(tuple(keys), down, up))
    return found
