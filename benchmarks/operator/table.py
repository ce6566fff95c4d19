"""Tables for people: a row for each subject, and ours as a multiple of each other one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.operator import figures

BURST = {
    "seconds": "s to all", "cpu_ms": "CPU ms/job", "cpu_ms_settled": "with later news", "peak_mib": "peak MiB",
    "writes_by_then": "writes/job", "writes": "with later news", "events": "events/job", "gets": "GETs/job",
}  # fmt: skip
RESTART = {
    "seconds_to_ready": "s to ready", "seconds_to_reconcile": "to 1st look", "seconds_to_quiet": "to quiet",
    "cpu_seconds": "CPU s", "peak_mib": "peak MiB", "writes": "writes",
    "lease_writes": "Lease writes", "looks": "looks",
}  # fmt: skip
IDLE = {
    "late_writes": "late writes before",
    "seconds": "s",
    "cpu_seconds": "CPU s",
    "growth_mib": "MiB more",
    "writes": "writes",
}


def burst(found: Mapping[str, figures.Burst]) -> str:
    return _with_requests(BURST, list(found.values()))


def restart(found: Mapping[str, figures.Restart]) -> str:
    return _with_requests(RESTART, list(found.values()))


def idle(found: Mapping[str, figures.Idle]) -> str:
    written = [f"  wrote at {line}" for one in found.values() for line in one.written]
    return "\n".join([_with_requests(IDLE, list(found.values())), *written])


def _with_requests(columns: Mapping[str, str], records: Sequence[Any]) -> str:
    """The table, and who asked for what."""
    counts = [
        f"  {one.subject}: " + (", ".join(f"{count} {what}" for what, count in sorted(one.requests.items())) or "none")
        for one in records
    ]
    return "\n".join([_table(columns, records), "Requests:", *counts])


def _table(columns: Mapping[str, str], records: Sequence[Any]) -> str:
    """The first record is ours; under the rows, ours divided by each of the others'."""
    rows = [("", *columns.values())]
    rows += [(one.subject, *(f"{getattr(one, name):,.2f}" for name in columns)) for one in records]
    rows += [
        (f"{records[0].subject} / {other.subject}", *(_ratio(records[0], other, name) for name in columns))
        for other in records[1:]
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _ratio(ours: Any, other: Any, name: str) -> str:
    below = getattr(other, name)
    return f"{getattr(ours, name) / below:.2f}x" if below else "-"
