"""A restart where every job is finished already: how soon the subject works, what it reads and writes, what it uses.

The finished jobs are made without the subject: created, and given the status that a job has that lived its whole life.
Their children are gone, as after the time that they are kept. One start before the measured one settles what is left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from benchmarks.operator import burst, figures, load, meter, subject
from tests.support.kube import control_plane as planes

POLL_SECONDS = 0.1
LONGEST_SECONDS = 120.0


def measure(found: subject.Finishing, finished: int) -> figures.Restart:
    """One subject on a control plane of its own."""
    with subject.alone(found) as (plane, controller):
        found.learn(plane, controller)
        controller.stop()
        asyncio.run(load.make_with_status(plane, map(found.old_job, range(finished)), found.finished))
        plane.requests.mark()
        subject.start(controller)
        meter.quiet(controller.pid, LONGEST_SECONDS)
        settling = burst.writes_but_leases(plane.requests.requests(controller.user))
        if settling:
            print(f"{found.name}: {len(settling)} writes before it agreed with its finished jobs", flush=True)
        controller.stop()
        return _start(found.name, finished, plane, controller)


def _start(name: str, finished: int, plane: planes.ControlPlane, controller: subject.Controller) -> figures.Restart:
    plane.requests.mark()
    began = time.monotonic()
    controller.launch()
    ready = _seconds_until(controller.ready, began)
    reconciled = _seconds_until(lambda: controller.looks() > 0, began)
    quiet_at, cpu = meter.quiet(controller.pid, LONGEST_SECONDS)
    looks = controller.looks()
    if looks < finished:
        raise RuntimeError(f"{name} looked {looks} times at {finished} jobs")
    asked = plane.requests.requests(controller.user)
    return figures.Restart(
        subject=name,
        finished=finished,
        seconds_to_ready=round(ready, 2),
        seconds_to_reconcile=round(reconciled, 2),
        seconds_to_quiet=round(quiet_at - began, 1),
        cpu_seconds=round(cpu, 2),
        peak_mib=round(meter.peak_mib(controller.pid), 1),
        requests=burst.by_kind(asked),
        writes=len(burst.writes_but_leases(asked)),
        lease_writes=sum(request.writes and request.resource == "leases" for request in asked),
        looks=looks,
    )


def _seconds_until(holds: Callable[[], bool], began: float) -> float:
    while not holds():
        if time.monotonic() - began > LONGEST_SECONDS:
            raise RuntimeError(f"not after {LONGEST_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)
    return time.monotonic() - began
