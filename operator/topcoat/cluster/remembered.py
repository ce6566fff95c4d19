"""What status remembers of the prepare stage: enough for the planner when the prepare Job is long gone."""

from __future__ import annotations

from topcoat.api import finetunejob, prepared, report, status
from topcoat.cluster.record import LONG_AGO
from topcoat.plan import observed, shown


def prepared_or_none(job: finetunejob.FineTuneJob) -> observed.Prepared | None:
    """The last answer as status has it: all that the planner asks of it, though not all that prepare found."""
    said = job.status
    if said is None or said.prepared is None:
        return None
    memo, failure = said.prepared, said.failure
    last = None
    if memo.exit_code and failure:
        last = report.Termination(outcome=report.Outcome.FAILED, message=failure.message, hint=failure.hint[:512])
    return observed.Prepared(
        key=memo.key,
        finished_at=shown.moment(memo.finished_at) or LONG_AGO,
        report=None if memo.exit_code else _report_or_none(said),
        exit_code=memo.exit_code,
        termination=last,
        failures=memo.failures,
    )


def _report_or_none(said: status.FineTuneJobStatus) -> prepared.PrepareReport | None:
    data, base = said.dataset, said.base_model
    if data is None or base is None:
        return None
    unknown = {"config_digest": "", "architecture": "", "layers": 0, "hidden_size": 0, "parameters": 0, "bytes": 0}
    card = prepared.BaseModelCard.model_validate(
        {"id": base.id, "uri": "", "path": base.path, "revision": base.resolved_revision, "digest": base.digest}
        | unknown
    )
    return prepared.PrepareReport(
        base_model=card,
        dataset=prepared.DataCard(
            digest=data.digest,
            format="",
            task=prepared.TaskKind.GENERATION,
            rows=data.samples + data.holdout_samples + data.invalid,
            invalid=data.invalid,
            train_samples=data.samples,
            holdout_samples=data.holdout_samples,
            holdout_digest="",
            split_rule="",
            tokens=data.tokens,
        ),
        train_path="",
        estimate=_estimate(said.estimate),
        seconds=0.0,
    )


def _estimate(said: status.EstimateStatus | None) -> prepared.Estimate:
    """Enough to be known again: the planner keeps the words that status has of it."""
    said = said or status.EstimateStatus()
    return prepared.Estimate(
        memory_bytes=bytes_of(said.memory),
        duration_seconds=None if said.duration_seconds is None else float(said.duration_seconds),
        trained_parameters=0,
        total_parameters=0,
    )


def bytes_of(text: str) -> int:
    """The other way round of `shown.size`, to its precision."""
    for ending, factor in (("Gi", 1 << 30), ("Mi", 1 << 20), ("Ki", 1 << 10)):
        if text.endswith(ending):
            return int(float(text[:-2]) * factor)
    return 0
