"""What one epoch of one subject is measured by, and what follows for whole runs. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Epoch:
    """What counts (seconds of the processor; on a GPU those of the clock) and seconds by the clock; the held-out loss
    after it; the highest memory so far (the process's, on a GPU the GPU's).
    """

    cost_seconds: float
    seconds: float
    heldout_loss: float
    peak_mib: float


@dataclass(slots=True)
class Course:
    """One subject on one data set. `fill`: what it does before its first epoch, and only once."""

    subject: str
    rows: str
    last_layers: int
    fill: Epoch
    epochs: list[Epoch] = field(default_factory=list)

    @property
    def steady(self) -> Epoch:
        """The median epoch; the first is left out where there are more, for threads and kernels are made in it."""
        taken = self.epochs[1:] or self.epochs
        names = Epoch.__slots__
        return Epoch(*(statistics.median(getattr(epoch, name) for epoch in taken) for name in names))

    def whole(self, epochs: int) -> float:
        """Seconds of a run of so many epochs, in the steady state."""
        return self.fill.cost_seconds + epochs * self.steady.cost_seconds

    @property
    def peak_mib(self) -> float:
        return max(epoch.peak_mib for epoch in [self.fill, *self.epochs])

    def until(self, loss: float) -> float | None:
        """Seconds up to the first held-out loss that is at most `loss`; None: it was never so low."""
        spent = self.fill.cost_seconds
        for epoch in self.epochs:
            spent += epoch.cost_seconds
            if epoch.heldout_loss <= loss:
                return spent
        return None


def reached_by_all(courses: Sequence[Course]) -> float:
    """The lowest held-out loss that every subject came to."""
    return max(min(epoch.heldout_loss for epoch in course.epochs) for course in courses)
