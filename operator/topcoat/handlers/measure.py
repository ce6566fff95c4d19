"""Which metrics a transition of a job moves. Pure but for the counters."""

from __future__ import annotations

from topcoat.api import conditions, status
from topcoat.cluster import clock
from topcoat.handlers import metrics
from topcoat.plan import shown

Phase = conditions.Phase


def transition(series: metrics.Metrics, before: status.FineTuneJobStatus, after: status.FineTuneJobStatus) -> None:
    """Counts a run that ended, a verdict that fell, a wait that is over."""
    if _ended(before, after):
        result = after.failure.category.value if after.failure else "Sealed"
        series.runs.labels(result).inc()
        series.run_seconds.labels(result).observe(_seconds(after.run))
    if after.evaluation is not None and after.evaluation != before.evaluation:
        series.promotions.labels(after.evaluation.verdict.value).inc()
    if before.phase is Phase.QUEUED and after.phase is Phase.TRAINING:
        series.queue_wait_seconds.observe(_since(before))


def _ended(before: status.FineTuneJobStatus, after: status.FineTuneJobStatus) -> bool:
    if after.run is None or after.run.completion_time is None:
        return False
    same = before.run is not None and before.run.number == after.run.number
    return not (same and before.run and before.run.completion_time)


def _seconds(run: status.RunStatus | None) -> float:
    start, end = (shown.moment(run.start_time), shown.moment(run.completion_time)) if run else (None, None)
    return max(0.0, (end - start).total_seconds()) if start and end else 0.0


def _since(before: status.FineTuneJobStatus) -> float:
    admitted = next((c for c in before.conditions if c.type is conditions.Condition.ADMITTED), None)
    then = shown.moment(admitted.last_transition_time) if admitted else None
    return max(0.0, (clock.now() - then).total_seconds()) if then else 0.0
