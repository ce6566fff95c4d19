"""Many jobs at once, and then a time in which nothing happens. Requests are counted by the API server's audit log,
CPU and memory by the kernel.
"""

from __future__ import annotations

import asyncio
import collections
import time
from datetime import UTC, datetime

from benchmarks.operator import figures, load, meter, subject
from tests.support.kube import audit
from tests.support.kube import control_plane as planes

SETTLE_SECONDS = 12.0
# The first job pays for what all share: claims, snapshots, caches.
FIRST = 10**6


def measure(found: subject.Subject, jobs: int, idle_seconds: float = 0.0) -> tuple[figures.Burst, figures.Idle | None]:
    """One subject on a control plane of its own."""
    with subject.alone(found) as (plane, controller):
        asyncio.run(load.seconds_to_made(plane, [found.job(FIRST)], found.collection, 1))
        time.sleep(3)
        burst = _burst(found, jobs, plane, controller)
        return burst, _idle(burst, plane, controller, idle_seconds) if idle_seconds else None


def _burst(
    found: subject.Subject, jobs: int, plane: planes.ControlPlane, controller: subject.Controller
) -> figures.Burst:
    pid = controller.pid
    objects = [found.job(number) for number in range(jobs)]
    plane.requests.mark()
    began = meter.cpu_seconds(pid)
    took = asyncio.run(load.seconds_to_made(plane, objects, found.collection, jobs + 1))
    then, made_at = meter.cpu_seconds(pid), _now()
    time.sleep(SETTLE_SECONDS)
    settled = meter.cpu_seconds(pid)
    # Read last: where this process is the subject, reading the log must not count.
    asked = [request for request in plane.requests.requests(controller.user) if request.resource != "leases"]
    writes = [request for request in asked if request.writes and request.resource != "events"]
    return figures.Burst(
        subject=found.name,
        jobs=jobs,
        seconds=round(took, 2),
        cpu_ms=round((then - began) / jobs * 1000, 3),
        cpu_ms_settled=round((settled - began) / jobs * 1000, 3),
        peak_mib=round(meter.peak_mib(pid), 1),
        writes_by_then=round(sum(request.at <= made_at for request in writes) / jobs, 3),
        writes=round(len(writes) / jobs, 3),
        events=round(sum(request.writes and request.resource == "events" for request in asked) / jobs, 3),
        gets=round(sum(request.verb == "get" for request in asked) / jobs, 3),
        requests=by_kind(asked),
    )


def _now() -> str:
    """As the audit log has it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _idle(
    burst: figures.Burst, plane: planes.ControlPlane, controller: subject.Controller, seconds: float
) -> figures.Idle:
    pid = controller.pid
    plane.requests.mark()
    cpu, resident = meter.cpu_seconds(pid), meter.resident_mib(pid)
    time.sleep(seconds)
    asked = plane.requests.requests(controller.user)
    return figures.Idle(
        subject=burst.subject,
        jobs=burst.jobs,
        seconds=seconds,
        cpu_seconds=round(meter.cpu_seconds(pid) - cpu, 2),
        growth_mib=round(meter.resident_mib(pid) - resident, 1),
        writes=len(writes_but_leases(asked)),
        requests=by_kind(asked),
    )


def writes_but_leases(asked: list[audit.Request]) -> list[audit.Request]:
    return [request for request in asked if request.writes and request.resource != "leases"]


def by_kind(asked: list[audit.Request]) -> dict[str, int]:
    return dict(collections.Counter(f"{request.verb} {request.resource}" for request in asked))
