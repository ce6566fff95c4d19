"""The operator's metrics: one table of names, labels and meanings. Dashboards, alerts and the reference use it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. A histogram's series are `…_bucket`, `…_sum` and `…_count`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str

    @property
    def series(self) -> tuple[str, ...]:
        """Names that a query may use."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


# Not `job`: Prometheus gives every series a label of that name, and would rename ours.
_JOB = ("namespace", "finetunejob")
METRICS = (
    Metric("topcoat_finetunejobs", "gauge", ("phase",), "FineTuneJobs by phase"),
    Metric("topcoat_runs_total", "counter", ("result",), "runs that ended: `Sealed`, or the category of the failure"),
    Metric("topcoat_run_duration_seconds", "histogram", ("result",), "time from a run's start to its end"),
    Metric("topcoat_queue_wait_seconds", "histogram", (), "time from a trainer Job's creation to its pod's start"),
    Metric("topcoat_train_loss", "gauge", _JOB, "loss of the run that trains now"),
    Metric("topcoat_train_tokens_per_second", "gauge", _JOB, "speed of the run that trains now"),
    Metric(
        "topcoat_eval_score",
        "gauge",
        (*_JOB, "subject"),
        "last score by the first measure; the subject is `base`, `serving` or `candidate`",
    ),
    Metric("topcoat_promotions_total", "counter", ("verdict",), "verdicts: `Promote`, `Reject`, `Inconclusive`"),
    Metric("topcoat_adapter_info", "gauge", (*_JOB, "version", "digest"), "1 for the version that serves"),
    Metric("topcoat_reconcile_duration_seconds", "histogram", ("kind",), "time to look at one object and act"),
    Metric("topcoat_reconcile_failures_total", "counter", ("kind",), "looks that failed and are repeated"),
    Metric("topcoat_queue_depth", "gauge", (), "objects that wait to be looked at"),
    Metric("topcoat_api_requests_total", "counter", ("verb", "resource", "code"), "requests to the Kubernetes API"),
    Metric("topcoat_build_info", "gauge", ("version",), "1; the version is a label"),
)


def page() -> str:
    """docs/reference/metrics.md."""
    lines = ["<!-- Generated from tools/metric.py by `make generate`. Do not edit. -->", "", "# Metrics", ""]
    lines += ["The operator's, on port 8080 at `/metrics`. No metric holds text of rows.", ""]
    lines += ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.meaning} |")
    return "\n".join(lines) + "\n"
