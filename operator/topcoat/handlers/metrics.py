"""What Prometheus sees. Few labels; never a name of a tenant's data, a prompt or a secret."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator

import prometheus_client
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from topcoat.api import conditions

Calls = Tally[tuple[str, str, int]]
# Not `job`: Prometheus gives every series a label of that name, and would rename ours.
_JOB = ("namespace", "finetunejob")


class Metrics:
    """All series of the operator, in a registry of their own."""

    def __init__(self, version: str) -> None:
        self.registry = prometheus_client.CollectorRegistry()
        self.runs = prometheus_client.Counter(
            "topcoat_runs", "Runs that ended, by result.", ["result"], registry=self.registry
        )
        self.run_seconds = prometheus_client.Histogram(
            "topcoat_run_duration_seconds", "How long runs took, from start to end.", ["result"],
            buckets=(60, 300, 900, 1800, 3600, 7200, 14400, 43200, 86400), registry=self.registry,
        )  # fmt: skip
        self.queue_wait_seconds = prometheus_client.Histogram(
            "topcoat_queue_wait_seconds", "How long attempts waited for resources.",
            buckets=(1, 5, 15, 60, 300, 900, 3600, 14400, 86400), registry=self.registry,
        )  # fmt: skip
        self.promotions = prometheus_client.Counter(
            "topcoat_promotions", "Verdicts on candidates.", ["verdict"], registry=self.registry
        )
        self.score = prometheus_client.Gauge(
            "topcoat_eval_score", "Scores of the last verdict.", [*_JOB, "subject"], registry=self.registry
        )
        self.loss = prometheus_client.Gauge(
            "topcoat_train_loss", "Training loss, as reported last.", _JOB, registry=self.registry
        )
        self.reconcile_seconds = prometheus_client.Histogram(
            "topcoat_reconcile_duration_seconds", "One look at one object.", ["kind"],
            buckets=(0.001, 0.005, 0.02, 0.1, 0.5, 2, 10), registry=self.registry,
        )  # fmt: skip
        self.failures = prometheus_client.Counter(
            "topcoat_reconcile_failures", "Looks that failed and are repeated.", ["kind"], registry=self.registry
        )
        prometheus_client.Gauge("topcoat_build_info", "Version.", ["version"], registry=self.registry).labels(
            version
        ).set(1)

    def watch(self, phases: Callable[[], Tally[str]], depth: Callable[[], int], calls: Calls) -> None:
        """Series that are read from the process' own memory whenever somebody asks."""
        self.registry.register(_Live(phases, depth, calls))

    def forget(self, namespace: str, job: str) -> None:
        """A deleted job's series end."""
        for subject in ("base", "serving", "candidate"):
            _remove(self.score, namespace, job, subject)
        _remove(self.loss, namespace, job)


def _remove(series: prometheus_client.Gauge, *labels: str) -> None:
    try:
        series.remove(*labels)
    except KeyError:
        return


class _Live(Collector):
    def __init__(self, phases: Callable[[], Tally[str]], depth: Callable[[], int], calls: Calls) -> None:
        self._phases, self._depth, self._calls = phases, depth, calls

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        jobs = GaugeMetricFamily("topcoat_finetunejobs", "FineTuneJobs by phase.", labels=["phase"])
        found = self._phases()
        for phase in conditions.Phase:
            jobs.add_metric([phase.value], found.get(phase.value, 0))
        yield jobs
        yield GaugeMetricFamily("topcoat_queue_depth", "Objects that wait to be looked at.", value=self._depth())
        calls = CounterMetricFamily(
            "topcoat_api_requests", "Calls to the API server; code 0: no answer.", labels=["verb", "resource", "code"]
        )
        for (verb, kind, code), count in sorted(self._calls.items()):
            calls.add_metric([verb, kind, str(code)], count)
        yield calls
