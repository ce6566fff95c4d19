"""What is measured, as plain records, and the median of several rounds of one. Knows no cluster."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Burst:
    """Many jobs at once."""

    subject: str
    jobs: int
    seconds: float
    """Until what the subject makes of its jobs was all there."""
    cpu_ms: float
    """CPU of the subject per job, until then."""
    cpu_ms_settled: float
    """The same, with the news that follow."""
    peak_mib: float
    writes_by_then: float
    """Writes per job until then, without events and leases; the other counts go on until the news have settled."""
    writes: float
    events: float
    gets: float
    requests: dict[str, int]
    """By verb and resource."""


@dataclass(frozen=True, slots=True)
class Restart:
    """A start where every job is finished already."""

    subject: str
    finished: int
    seconds_to_ready: float
    seconds_to_reconcile: float
    """Until the first job was looked at; seen from outside, so at most 0.1 s too long."""
    seconds_to_quiet: float
    cpu_seconds: float
    """Until it was quiet."""
    peak_mib: float
    requests: dict[str, int]
    """By verb and resource."""
    writes: int
    """Leases are counted apart."""
    lease_writes: int
    looks: int
    """How many looks at a job it took."""


@dataclass(frozen=True, slots=True)
class Idle:
    """Some time in which nothing happens, with many jobs waiting."""

    subject: str
    jobs: int
    late_writes: int
    """Between the burst's figures and this time: a job that has waited half a minute, or a minute, says so."""
    seconds: float
    cpu_seconds: float
    growth_mib: float
    writes: int
    """Leases are counted apart."""
    written: tuple[str, ...]
    """What the first few of these writes were; nobody expects any."""
    requests: dict[str, int]
    """By verb and resource."""


Record = TypeVar("Record", Burst, Restart, Idle)


def median(rounds: Sequence[Record]) -> Record:
    """Each number's median; what is no number is the last round's."""
    last = rounds[-1]
    found: dict[str, Any] = {}
    for field in fields(last):
        values = [getattr(one, field.name) for one in rounds]
        found[field.name] = _median(values) if isinstance(values[-1], int | float) else values[-1]
    return type(last)(**found)


def _median(values: Sequence[float]) -> float:
    """A number of things stays one, unless it lies between two."""
    found = round(statistics.median(values), 3)
    return int(found) if all(isinstance(value, int) for value in values) and found == int(found) else found
