"""Series that are read from the process' own memory whenever Prometheus asks: right after a restart, and gone with
their job.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from topcoat.api import conditions, finetunejob, status

Calls = Tally[tuple[str, str, int]]
Jobs = Callable[[], Iterable[finetunejob.FineTuneJob]]
# Not `job`: Prometheus gives every series a label of that name, and would rename ours.
JOB = ("namespace", "finetunejob")


class Live(Collector):
    """Jobs, queue and calls, as they are now."""

    def __init__(self, jobs: Jobs, depth: Callable[[], int], calls: Calls) -> None:
        self._jobs, self._depth, self._calls = jobs, depth, calls

    def collect(self) -> Iterator[Metric]:
        yield from _phases(self._jobs())
        yield from _told(self._jobs())
        yield GaugeMetricFamily("topcoat_queue_depth", "Objects that wait to be looked at.", value=self._depth())
        calls = CounterMetricFamily(
            "topcoat_api_requests", "Calls to the API server; code 0: no answer.", labels=["verb", "resource", "code"]
        )
        for (verb, kind, code), count in sorted(self._calls.items()):
            calls.add_metric([verb, kind, str(code)], count)
        yield calls


def _phases(jobs: Iterable[finetunejob.FineTuneJob]) -> Iterator[Metric]:
    found = Tally(job.status.phase if job.status else conditions.Phase.PENDING for job in jobs)
    shown = GaugeMetricFamily("topcoat_finetunejobs", "FineTuneJobs by phase.", labels=["phase"])
    for phase in conditions.Phase:
        shown.add_metric([phase.value], found[phase])
    yield shown


def _told(jobs: Iterable[finetunejob.FineTuneJob]) -> Iterator[Metric]:
    """What statuses say of scores, of the training that goes on, and of what serves."""
    score = GaugeMetricFamily("topcoat_eval_score", "Scores of the last verdict.", labels=[*JOB, "subject"])
    loss = GaugeMetricFamily("topcoat_train_loss", "Training loss, as reported last.", labels=JOB)
    speed = GaugeMetricFamily(
        "topcoat_train_tokens_per_second", "Training tokens a second, as reported last.", labels=JOB
    )
    serves = GaugeMetricFamily(
        "topcoat_adapter_info", "1 for the version that serves.", labels=[*JOB, "version", "digest"]
    )
    for job in jobs:
        name, said = [job.metadata.namespace, job.metadata.name], job.status or status.FineTuneJobStatus()
        for subject, value in _scores(said.evaluation):
            score.add_metric([*name, subject], float(value))
        if said.progress and said.phase is conditions.Phase.TRAINING:
            for family, number in ((loss, said.progress.loss), (speed, said.progress.tokens_per_second)):
                if number:
                    family.add_metric(name, float(number))
        for version in said.versions:
            if version.version == said.served_version:
                serves.add_metric([*name, version.version, version.digest], 1)
    yield from (score, loss, speed, serves)


def _scores(found: status.EvaluationStatus | None) -> Iterator[tuple[str, str]]:
    if found is None:
        return
    for subject, value in (("base", found.base), ("serving", found.serving), ("candidate", found.candidate)):
        if value is not None:
            yield subject, value
