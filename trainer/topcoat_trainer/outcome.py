"""What was estimated before a run beside what was measured in it: stages, whole time, memory, GPU hours. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from topcoat.api.prepared import Estimate
from topcoat.api.report import EstimateCheck, StageCost, Unit

# The evaluation tells its two parts apart where the diary has one stage.
PARTS = {"Evaluating": "evaluate", "Baselines": "baselines"}


def checks(
    estimate: Estimate, costs: Mapping[str, StageCost], memory_bytes: int, gpu_memory_bytes: int | None
) -> list[EstimateCheck]:
    """Line by line. What was not estimated, or did not happen, has no ratio. `costs`: by the stages' names."""
    lines = [
        check(stage.stage, Unit.SECONDS, stage.seconds, _seconds_or_none(stage.stage, costs))
        for stage in estimate.stages
    ]
    whole = sum(cost.seconds for name, cost in costs.items() if name not in PARTS.values())
    lines.append(check("All stages", Unit.SECONDS, estimate.duration_seconds, round(whole, 3)))
    lines.append(check("Peak memory", Unit.BYTES, estimate.memory_bytes or None, memory_bytes))
    if estimate.gpus or gpu_memory_bytes is not None:
        hours = round(sum(cost.gpu_seconds for cost in costs.values()) / 3600, 6)
        lines.append(check("Peak GPU memory", Unit.BYTES, estimate.gpu_memory_bytes, gpu_memory_bytes))
        lines.append(check("GPU hours", Unit.HOURS, estimate.gpu_hours, hours))
    return lines


def _seconds_or_none(stage: str, costs: Mapping[str, StageCost]) -> float | None:
    cost = costs.get(PARTS.get(stage, stage)) or costs.get(stage)
    return cost.seconds if cost else None


def check(part: str, unit: Unit, estimated: float | None, measured: float | None) -> EstimateCheck:
    """One line; the ratio is measured over estimated."""
    ratio = round(measured / estimated, 3) if estimated and measured is not None else None
    return EstimateCheck(part=part, unit=unit, estimated=estimated, measured=measured, ratio=ratio)
