"""What is aimed at, beside what was measured. Knows no cluster; a figure that was not taken is said to be missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

OURS = "topcoat"
PEER = "kubeflow"


@dataclass(frozen=True, slots=True)
class Target:
    """One figure of ours and the most that it may be."""

    what: str
    part: str
    field: str
    most: float
    unit: str = ""
    strictly: bool = False


TARGETS = (
    Target("1,000 jobs to 1,000 Jobs", "burst", "seconds", 5, "s", strictly=True),
    Target("CPU per job up to its Job", "burst", "cpu_ms", 2.5, "ms"),
    Target("CPU per job with the Job controller's later events", "burst", "cpu_ms_settled", 3.2, "ms"),
    Target("peak memory with 1,000 jobs", "burst", "peak_mib", 150, "MiB"),
    Target("writes per job, its first status included", "burst", "writes", 2),
    Target("events per job", "burst", "events", 1),
    Target("GETs per job", "burst", "gets", 0),
    Target("start to first reconcile", "restart", "seconds_to_reconcile", 3, "s", strictly=True),
    Target("writes after a restart, but the Lease", "restart", "writes", 0),
    Target("writes while nothing happens, but the Lease", "idle", "writes", 0),
)
# As many as the targets speak of; with other numbers they are shown, but prove nothing.
NUMBERS = {"burst": ("jobs", 1000), "restart": ("finished", 5000)}

Found = Mapping[str, Mapping[str, Any]]
"""Part -> subject -> record."""


def lines(found: Found) -> list[str]:
    """One line for each target, and one for the promise to use less than the peer."""
    return [*(_line(target, found) for target in TARGETS), _beside_peer(found)]


def _line(target: Target, found: Found) -> str:
    sign = "<" if target.strictly else "<="
    aim = f"{sign} {target.most:g} {target.unit}".rstrip()
    record = found.get(target.part, {}).get(OURS)
    if record is None:
        return f"{target.what}: {aim}: not measured"
    value = float(getattr(record, target.field))
    met = value < target.most if target.strictly else value <= target.most
    return f"{target.what}: {aim}: {value:g}: {'met' if met else _missed(value, target)}{_other(target.part, record)}"


def _missed(value: float, target: Target) -> str:
    share = f", {value / target.most - 1:+.0%}" if target.most else ""
    return f"MISSED by {value - target.most:.3g} {target.unit}".rstrip() + share


def _other(part: str, record: Any) -> str:
    name, number = NUMBERS.get(part, ("", 0))
    measured = getattr(record, name, number)
    return "" if measured == number else f" (with {measured:,.0f}, not {number:,})"


def _beside_peer(found: Found) -> str:
    ours, peer = (found.get("burst", {}).get(name) for name in (OURS, PEER))
    what = "CPU per job with later events, below Kubeflow's manager in the same run"
    if ours is None or peer is None:
        return f"{what}: not measured"
    ratio = ours.cpu_ms_settled / peer.cpu_ms_settled if peer.cpu_ms_settled else float("inf")
    return f"{what}: {ours.cpu_ms_settled:g} to {peer.cpu_ms_settled:g} ms, {ratio:.2f} times: " + (
        "met" if ratio < 1 else "MISSED"
    )
