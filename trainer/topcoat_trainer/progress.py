"""progress.json: how far a run is, in the shape of Kubeflow's trainer protocol, written whole at most once a second.

Best effort: a volume that is full is noticed by whoever must write, not here. Never imports torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from topcoat.api.prepared import Estimate
from topcoat.api.report import Progress, ProgressMetric
from topcoat_trainer import files, high_water

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
Sink = Callable[[Progress], None]

# Where each stage ends, in percent of the run. Training has most of it; what follows is counted as well.
STAGE_ENDS = {
    "Loading": 2,
    "Choosing": 5,
    "Caching": 8,
    "Training": 80,
    "Evaluating": 98,
    "Sealing": 99,
    "Sealed": 100,
}
STAGES = tuple(STAGE_ENDS)
# What an estimate calls the parts of a stage. Sealing takes seconds, whatever the run.
ESTIMATED = {
    "Loading": ("Loading",),
    "Caching": ("Caching",),
    "Training": ("Training",),
    "Evaluating": ("Evaluating", "Baselines"),
}


def now() -> str:
    """The time as RFC 3339, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def percentage(stage: str, share: float) -> int:
    """Percent of the whole run, when `share` (0 to 1) of a stage is done."""
    place = STAGES.index(stage)
    start = STAGE_ENDS[STAGES[place - 1]] if place else 0
    return int(start + (STAGE_ENDS[stage] - start) * min(1.0, max(0.0, share)))


class Reporter:
    """Says how far the run is; without a path, in memory only. `sink` gets the same, a POST say, and may not raise."""

    def __init__(
        self, path: Path | None, sink: Sink | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.path = path
        self.sink = sink
        self.clock = clock
        self.progress = Progress(stage=STAGES[0])
        self._written_at = float("-inf")
        self._stage_began = clock()
        self._began_at_share = 0.0
        self._expected: dict[str, float] = {}

    def expect(self, estimate: Estimate) -> None:
        """What each stage will take, as estimated: what is measured of one corrects those after it."""
        known = {stage.stage: stage.seconds for stage in estimate.stages}
        for name, parts in ESTIMATED.items():
            seconds = [known[part] for part in parts if part in known]
            if all(each is not None for each in seconds):
                self._expected[name] = sum(each or 0.0 for each in seconds)

    def stage(self, name: str) -> None:
        """A new stage begins; always written."""
        self._stage_began, self._began_at_share = self.clock(), 0.0
        self._say(
            {
                "stage": name,
                "progress_percentage": percentage(name, 1.0 if name == STAGES[-1] else 0.0),
                "estimated_remaining_seconds": 0 if name == STAGES[-1] else None,
            },
            force=True,
        )

    def resumed(self, share: float) -> None:
        """The stage begins in its middle: what was done before took no time of ours."""
        self._began_at_share = share

    def share(
        self,
        done: float,
        *,
        metrics: Mapping[str, float] | None = None,
        step: tuple[int, int] | None = None,
        tokens_per_second: float | None = None,
    ) -> None:
        """So much (0 to 1) of the stage is done; `step` is the step and the number of steps."""
        update: dict[str, object] = {
            "progress_percentage": percentage(self.progress.stage, done),
            "estimated_remaining_seconds": self._remaining(done),
        }
        if metrics is not None:
            update["metrics"] = [ProgressMetric(name=name, value=f"{value:.6g}") for name, value in metrics.items()]
        if step is not None:
            update["current_step"], update["total_steps"] = step
            update |= self._measured(*step)
        if tokens_per_second is not None:
            update["tokens_per_second"] = round(tokens_per_second, 1)
        self._say(update, force=done >= 1.0)

    def _measured(self, step: int, steps: int) -> dict[str, object]:
        """What is known of the run by its own steps: time of one, and the most memory so far."""
        own = step - round(self._began_at_share * steps)
        each = (self.clock() - self._stage_began) / own if own > 0 else None
        peak = high_water.gpu_memory_bytes() or high_water.memory_bytes()
        return {"seconds_per_step": None if each is None else round(each, 4), "peak_memory_bytes": peak}

    def _remaining(self, done: float) -> int | None:
        """What is left of the stage at its speed so far, and of the stages after it: as estimated and corrected by
        this one, else in proportion.
        """
        gained = done - self._began_at_share
        if gained <= 0:
            return None
        elapsed = self.clock() - self._stage_began
        place = STAGES.index(self.progress.stage)
        later = [name for name in STAGES[place + 1 :] if name in ESTIMATED]
        planned = self._expected.get(self.progress.stage, 0.0)
        if planned > 0 and all(name in self._expected for name in later):
            correction = elapsed / gained / planned
            after = sum(self._expected[name] for name in later) * correction
            return max(0, round(elapsed / gained * (1.0 - done) + after))
        width = STAGE_ENDS[self.progress.stage] - (STAGE_ENDS[STAGES[place - 1]] if place else 0)
        after = (100 - STAGE_ENDS[self.progress.stage]) / width
        return max(0, round(elapsed / gained * (1.0 - done + after)))

    def _say(self, update: dict[str, object], *, force: bool) -> None:
        self.progress = self.progress.model_copy(update={**update, "last_updated_time": now()})
        if not force and self.clock() - self._written_at < INTERVAL_SECONDS:
            return
        self._written_at = self.clock()
        try:
            if self.path is not None:
                files.write_json(self.path, self.progress.as_json())
        except Exception as error:  # noqa: BLE001 - progress is for people; it never ends a run
            logger.warning("progress could not be written: %s", error)
        if self.sink is not None:
            self.sink(self.progress)


class Part(Reporter):
    """Says how far a part of another reporter's stage is, which begins at `start` (0 to 1) and makes `width` of it."""

    def __init__(self, whole: Reporter, start: float, width: float) -> None:
        super().__init__(None)
        self._whole, self._start, self._width = whole, start, width

    def resumed(self, share: float) -> None:
        """Nothing: of what was done before, only the whole knows."""

    def share(
        self,
        done: float,
        *,
        metrics: Mapping[str, float] | None = None,
        step: tuple[int, int] | None = None,
        tokens_per_second: float | None = None,
    ) -> None:
        place = self._start + self._width * done
        self._whole.share(place, metrics=metrics, step=step, tokens_per_second=tokens_per_second)
