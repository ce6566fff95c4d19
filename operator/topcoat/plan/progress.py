"""`status.progress`: how far the attempt is, from what the trainer last reported. Display strings are made here."""

from __future__ import annotations

import math
from typing import Any

from topcoat.api import report as reports
from topcoat.api import status
from topcoat.plan import observed, shown
from topcoat.plan.case import Case

# Words of the trainer's stages that come after training.
JUDGING = ("evaluat", "judg", "verdict", "seal", "report", "baseline", "gate")


def is_evaluating(reported: reports.Progress | None) -> bool:
    return reported is not None and reported.stage.lower().startswith(JUDGING)


def updates(case: Case, run: status.RunStatus) -> dict[str, Any]:
    """The field of status, where the attempt at this run has reported anything."""
    attempt = case.seen.attempt
    if attempt is None or attempt.run != run.number or attempt.progress is None:
        return {}
    return {"progress": shown_progress(attempt.progress, done=bool(run.completion_time), state=attempt.state)}


def shown_progress(reported: reports.Progress, *, done: bool, state: observed.AttemptState) -> status.ProgressStatus:
    percentage = 100 if done else min(99, max(0, reported.progress_percentage))
    left = reported.estimated_remaining_seconds
    running = state is observed.AttemptState.RUNNING and left is not None and not done
    loss = next((metric.value for metric in reported.metrics if metric.name.lower() in ("loss", "train_loss")), None)
    updated = shown.moment(reported.last_updated_time)
    return status.ProgressStatus(
        stage=shown.clip(reported.stage, 253),
        percent=f"{percentage}%",
        eta=shown.duration(left or 0) if running else "",
        progress_percentage=percentage,
        estimated_remaining_seconds=max(0, left or 0) if running else None,
        current_step=max(0, reported.current_step),
        total_steps=max(0, reported.total_steps),
        tokens_per_second=f"{reported.tokens_per_second:.0f}" if reported.tokens_per_second > 0 else None,
        loss=shown.clip(loss, 253) if loss is not None else None,
        seconds_per_step=_step_words(reported.seconds_per_step),
        peak_memory=shown.size(reported.peak_memory_bytes) if reported.peak_memory_bytes else None,
        last_updated_time=shown.time(updated) if updated else None,
    )


def _step_words(seconds: float | None) -> str | None:
    """`0.412`; nothing where it is no time."""
    return f"{seconds:.3f}" if seconds is not None and math.isfinite(seconds) and seconds > 0 else None
