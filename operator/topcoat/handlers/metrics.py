"""What Prometheus sees. Few labels; never a name of a tenant's data, a prompt or a secret."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client

from topcoat.handlers import live


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

    def watch(self, jobs: live.Jobs, depth: Callable[[], int], calls: live.Calls) -> None:
        """Series that are read from the process' own memory whenever somebody asks."""
        self.registry.register(live.Live(jobs, depth, calls))
