"""When a run began and what its stages cost, over all its attempts. Kept in the run's folder; never imports torch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from topcoat.api.report import StageCost
from topcoat_trainer import files, progress
from topcoat_trainer.errors import Corrupt

NAME = "diary.json"


class Diary:
    """The stages of a run, in the order in which they first began. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / NAME if folder else None
        self.started_at = progress.now()
        self.costs: dict[str, StageCost] = {}
        self.gpus = 0  # of all processes of the run: also those that wait are taken
        if self._path is None:
            return
        with contextlib.suppress(OSError, Corrupt, KeyError, TypeError, ValueError):
            known: dict[str, Any] = files.read_json(self._path)
            self.started_at = str(known["startedAt"])
            self.costs = {cost["stage"]: StageCost.model_validate(cost) for cost in known["stages"]}

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds what happens inside to the stage's cost, also when it fails."""
        wall, cpu = time.monotonic(), time.process_time()
        try:
            yield
        finally:
            self._add(name, time.monotonic() - wall, time.process_time() - cpu)
            self.keep()

    def _add(self, name: str, wall: float, cpu: float) -> None:
        before = self.costs.get(name, StageCost(stage=name, seconds=0.0, cpu_seconds=0.0))
        self.costs[name] = StageCost(
            stage=name,
            seconds=round(before.seconds + wall, 3),
            cpu_seconds=round(before.cpu_seconds + cpu, 3),
            gpu_seconds=round(before.gpu_seconds + wall * self.gpus, 3),
        )

    def keep(self) -> None:
        if self._path is None:
            return
        stages = [cost.as_json() for cost in self.costs.values()]
        files.write_json(self._path, {"startedAt": self.started_at, "stages": stages})
