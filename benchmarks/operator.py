"""`make bench-operator`: 1,000 jobs at once on a real control plane, for us and for a bare client that only creates
Jobs. Requests are counted by the API server's audit log, CPU by the kernel.

Each subject has a control plane of its own, freshly started; nothing else runs. No node: pods stay pending.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.support import operators
from tests.support.kube import account, folder, leftover
from tests.support.kube import control_plane as planes

Json = dict[str, Any]

NAMESPACE = "bench"
IN_FLIGHT = 32
TICKS = os.sysconf("SC_CLK_TCK")
SETTLE_SECONDS = 12.0
LONGEST_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What one subject took for its jobs."""

    subject: str
    jobs: int
    seconds_to_jobs: float
    cpu_ms_to_jobs: float
    """CPU of the controller per job, until the last Job was there."""
    cpu_ms_settled: float
    """The same, with the news that follow."""
    memory_mib: float
    writes: float
    """Writes per job up to the last Job (leases and shared objects counted apart)."""
    events: float
    gets: float


@dataclass(slots=True)
class Subject:
    """A controller under test: how it starts, who it is, what its jobs look like."""

    name: str
    start: Callable[[planes.ControlPlane], Any]
    body: Callable[[int], tuple[str, Json]]
    """Path and body of the n-th object."""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


@contextmanager
def control_plane() -> Iterator[planes.ControlPlane]:
    plane = planes.ControlPlane(folder.Owned.new("bench"))
    try:
        plane.start()
        plane.apply_crds()
        plane.create_namespace(NAMESPACE)
        yield plane
    finally:
        plane.stop()


def session(plane: planes.ControlPlane) -> aiohttp.ClientSession:
    trust = ssl.create_default_context(cafile=str(plane.server.authority))
    headers = {"Authorization": f"Bearer {account.token(account.ADMIN)}"}
    return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=trust, limit=IN_FLIGHT + 1))


async def create_all(plane: planes.ControlPlane, subject: Subject, count: int, beside: int = 0) -> float:
    """Creates all objects, 32 in flight, and waits for as many Jobs, `beside` those that were there before. Returns
    the seconds until they are there.
    """
    async with session(plane) as api:
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def create(number: int) -> None:
            path, body = subject.body(number)
            async with gate, api.post(f"{plane.server.url}{path}", json=body) as answer:
                if answer.status != 201:
                    raise RuntimeError(await answer.text())

        began = time.monotonic()
        work = asyncio.gather(*(create(number) for number in range(count)))
        while await job_count(plane, api) < count + beside:
            await asyncio.sleep(0.05)
            if time.monotonic() - began > LONGEST_SECONDS:
                raise RuntimeError(f"{subject.name}: not {count} Jobs after {LONGEST_SECONDS:.0f} s")
        took = time.monotonic() - began
        await work
        return took


async def job_count(plane: planes.ControlPlane, api: aiohttp.ClientSession) -> int:
    async with api.get(f"{plane.server.url}/apis/batch/v1/namespaces/{NAMESPACE}/jobs?limit=1") as answer:
        found = await answer.json()
    return len(found["items"]) + int(found["metadata"].get("remainingItemCount") or 0)


def measure(subject: Subject, count: int) -> Figures:
    """One subject on a control plane of its own."""
    with control_plane() as plane:
        running = subject.start(plane)
        try:
            pid, user = running.pid, running.user
            # The first job pays for what all share: claims, policies, caches.
            asyncio.run(create_all(plane, Subject(subject.name, subject.start, lambda _: subject.body(10**6)), 1))
            time.sleep(3)
            plane.requests.mark()
            before = cpu_seconds(pid)
            took = asyncio.run(create_all(plane, subject, count, beside=1))
            at_jobs = cpu_seconds(pid)
            asked = plane.requests.requests(user)
            time.sleep(SETTLE_SECONDS)
            settled = cpu_seconds(pid)
            cpu = (at_jobs - before, settled - before)
            return figures(Sample(subject.name, count, took, cpu, peak_mib(pid)), asked)
        finally:
            running.stop()


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read off one subject: CPU seconds until the last Job and until the news had settled."""

    name: str
    count: int
    seconds: float
    cpu_seconds: tuple[float, float]
    peak_mib: float


def figures(sample: Sample, asked: list[Any]) -> Figures:
    mine = [request for request in asked if request.resource != "leases"]
    events = sum(request.writes and request.resource == "events" for request in mine)
    count = sample.count
    return Figures(
        subject=sample.name,
        jobs=count,
        seconds_to_jobs=round(sample.seconds, 2),
        cpu_ms_to_jobs=round(sample.cpu_seconds[0] / count * 1000, 2),
        cpu_ms_settled=round(sample.cpu_seconds[1] / count * 1000, 2),
        memory_mib=round(sample.peak_mib, 1),
        writes=round((sum(request.writes for request in mine) - events) / count, 3),
        events=round(events / count, 3),
        gets=round(sum(request.verb == "get" for request in mine) / count, 3),
    )


def ours() -> Subject:
    def start(plane: planes.ControlPlane) -> operators.Operator:
        operators.make_profile(plane, "default")
        operator = operators.Operator(plane, [])
        operator.start()
        return operator

    def body(number: int) -> tuple[str, Json]:
        made = {
            "apiVersion": "topcoat.dev/v1alpha1",
            "kind": "FineTuneJob",
            "metadata": {"name": f"job-{number:07d}", "namespace": NAMESPACE},
            "spec": {
                "baseModel": {"uri": "pvc://models/base"},
                "dataset": {"train": {"uri": "pvc://data/train.jsonl"}},
            },
        }
        return f"/apis/topcoat.dev/v1alpha1/namespaces/{NAMESPACE}/finetunejobs", made

    return Subject("topcoat", start, body)


@dataclass(slots=True)
class Itself:
    """The bare client is this very process."""

    pid: int = os.getpid()
    user: str = account.ADMIN

    def stop(self) -> None:
        """Nothing was started."""


def bare() -> Subject:
    container = {"name": "train", "image": operators.IMAGE, "command": ["true"]}
    spec = {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}}

    def body(number: int) -> tuple[str, Json]:
        meta = {"name": f"job-{number:07d}", "namespace": NAMESPACE}
        return f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", {
            "apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": spec,
        }  # fmt: skip

    return Subject("bare client", lambda _: Itself(), body)


def table(found: list[Figures]) -> str:
    head = ("", "s to all Jobs", "CPU ms/job", "with later news", "peak MiB", "writes/job", "events/job", "GETs/job")
    rows = [
        (
            one.subject, f"{one.seconds_to_jobs:.2f}", f"{one.cpu_ms_to_jobs:.2f}", f"{one.cpu_ms_settled:.2f}",
            f"{one.memory_mib:.0f}", f"{one.writes:.2f}", f"{one.events:.2f}", f"{one.gets:.2f}",
        )
        for one in found
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)
    )


def median(found: list[Figures]) -> Figures:
    """Of several rounds of one subject: each figure's median."""
    named = [asdict(one) for one in found]
    numbers = {
        name: statistics.median(one[name] for one in named) for name in named[0] if name not in ("subject", "jobs")
    }
    return Figures(subject=found[0].subject, jobs=found[0].jobs, **numbers)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.operator", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1, help="each subject so often, in turn; medians are shown")
    parser.add_argument("--only", choices=("topcoat", "bare"), action="append")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    leftover.clean()
    wanted = options.only or ["topcoat", "bare"]
    made = {"topcoat": ours, "bare": bare}
    rounds: dict[str, list[Figures]] = {name: [] for name in wanted}
    for _ in range(options.rounds):
        for name in wanted:
            rounds[name].append(measure(made[name](), options.jobs))
            print(table(rounds[name][-1:]), flush=True)
    found = [median(one) for one in rounds.values()]
    print(f"\n{options.jobs} jobs at once, {IN_FLIGHT} creations in flight, {options.rounds} round(s)\n{table(found)}")
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in found], indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
