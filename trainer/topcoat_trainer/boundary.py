"""Where training may begin: layers below the boundary are frozen, the last ones are the tail. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

from topcoat_trainer.errors import UserInputError

FEWEST_AUTO_LAYERS = 2


@dataclass(frozen=True, slots=True)
class Boundary:
    """Layers [0, first_trained) are frozen, layers [first_trained, total) are trained."""

    first_trained: int
    total: int

    @property
    def trained_layers(self) -> int:
        return self.total - self.first_trained

    @property
    def indices(self) -> list[int]:
        return list(range(self.first_trained, self.total))

    def __str__(self) -> str:
        return f"the last {self.trained_layers} of {self.total} layers"


def choose(total: int, wanted: int | str, task_kind: str) -> Boundary:
    """The boundary for `method.layers`. Auto: an eighth of the layers for classification, half for other data."""
    if wanted == "All":
        return Boundary(0, total)
    if wanted == "Auto":
        share = 8 if task_kind.lower() == "classification" else 2
        # Rounded up: too many layers cost time, too few cost quality.
        return Boundary(total - min(total, max(FEWEST_AUTO_LAYERS, -(-total // share))), total)
    count = int(wanted) if isinstance(wanted, int) or wanted.isdecimal() else 0
    if isinstance(wanted, bool) or not 1 <= count <= total:
        raise UserInputError(
            f"method.layers is {wanted!r}, but the base model has {total} layers",
            where="method.layers",
            hint=f"use Auto, All, or a number from 1 to {total}",
        )
    return Boundary(total - count, total)
