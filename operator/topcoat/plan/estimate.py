"""`status.estimate`: what prepare estimated, as words. What is not known is called unknown, never guessed."""

from __future__ import annotations

import math

from topcoat.api import prepared, status
from topcoat.plan import shown

UNKNOWN = "unknown"


def shown_estimate(found: prepared.Estimate) -> status.EstimateStatus:
    """The field of status."""
    return status.EstimateStatus(
        memory=shown.size(found.memory_bytes),
        gpu_memory="" if found.gpu_memory_bytes is None else shown.size(found.gpu_memory_bytes),
        disk=shown.size(found.disk_bytes) if found.disk_bytes > 0 else "",
        duration_seconds=None if found.duration_seconds is None else shown.whole(found.duration_seconds),
        gpu_hours=gpu_hours(found),
        operations=operations(found.operations),
        stages={shown.clip(stage.stage, 64): stage_words(stage) for stage in found.stages[:8]},
        device=shown.clip(found.device, 253),
    )


def kept(found: prepared.Estimate, before: status.EstimateStatus | None) -> status.EstimateStatus:
    """The field of status; as it was where `found` is what status itself remembered, in fewer words."""
    made = shown_estimate(found)
    same = before is not None and (made.memory, made.duration_seconds) == (before.memory, before.duration_seconds)
    return before if before is not None and same and not made.stages else made


def gpu_hours(found: prepared.Estimate) -> str:
    """Empty without GPUs."""
    if found.gpus <= 0:
        return ""
    known = found.gpu_hours is not None and math.isfinite(found.gpu_hours)
    return f"{max(0.0, found.gpu_hours or 0.0):.2f}" if known else UNKNOWN


def operations(count: float) -> str:
    """`3.2e+14`; empty where nothing was counted."""
    return f"{count:.1e}" if math.isfinite(count) and count > 0 else ""


def stage_words(stage: prepared.StageEstimate) -> str:
    """A stage's time, else its operations."""
    if stage.seconds is not None:
        return shown.duration(max(1.0, stage.seconds))
    counted = operations(stage.operations)
    return f"{counted} operations" if counted else UNKNOWN
