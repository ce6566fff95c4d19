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

# The news of new Jobs come late and in waves: at least so long, and then until the subject is quiet.
SETTLE_SECONDS = 12.0
LONGEST_SECONDS = 180.0
# Jobs that wait say so after half a minute and after a minute; then nothing is left to say.
STEADY_SECONDS = 40.0
LONGEST_STEADIES = 8
SHOWN = 10
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
    _, settled = meter.quiet(pid, LONGEST_SECONDS)
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
    pid, late = controller.pid, _late_writes(plane, controller)
    plane.requests.mark()
    cpu, resident = meter.cpu_seconds(pid), meter.resident_mib(pid)
    time.sleep(seconds)
    asked = plane.requests.requests(controller.user)
    written = writes_but_leases(asked)
    return figures.Idle(
        subject=burst.subject,
        jobs=burst.jobs,
        late_writes=late,
        seconds=seconds,
        cpu_seconds=round(meter.cpu_seconds(pid) - cpu, 2),
        growth_mib=round(meter.resident_mib(pid) - resident, 1),
        writes=len(written),
        written=tuple(f"{one.at} {one.verb} {one.resource} {one.name}: {one.code}" for one in written[:SHOWN]),
        requests=by_kind(asked),
    )


def _late_writes(plane: planes.ControlPlane, controller: subject.Controller) -> int:
    """Waits until all is said; how many writes that still took."""
    late = 0
    for _ in range(LONGEST_STEADIES):
        plane.requests.mark()
        time.sleep(STEADY_SECONDS)
        written = len(writes_but_leases(plane.requests.requests(controller.user)))
        if not written:
            break
        late += written
    return late


def writes_but_leases(asked: list[audit.Request]) -> list[audit.Request]:
    return [request for request in asked if request.writes and request.resource != "leases"]


def by_kind(asked: list[audit.Request]) -> dict[str, int]:
    return dict(collections.Counter(f"{request.verb} {request.resource}" for request in asked))
