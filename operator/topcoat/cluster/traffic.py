"""How the versions behind an alias answered, over all pods of a server. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from topcoat.api import server
from topcoat.plan import observed

SHARE = 0.95


def of(states: Iterable[server.AgentState], alias: str) -> Mapping[str, observed.Traffic]:
    """By version; empty while none is watched."""
    told = [one for state in states for held in state.aliases if held.alias == alias for one in held.traffic]
    return {version: _sum([one for one in told if one.version == version]) for version in {one.version for one in told}}


def _sum(found: list[server.Traffic]) -> observed.Traffic:
    return observed.Traffic(
        requests=sum(one.requests for one in found),
        failed=sum(one.failed for one in found),
        empty=sum(one.empty for one in found),
        p95_seconds=_p95_or_none([sum(counts) for counts in zip(*(one.latency for one in found), strict=False)]),
    )


def _p95_or_none(counts: list[int]) -> float | None:
    """The upper bound of the time within which 95 of 100 answers ended."""
    wanted, passed = SHARE * sum(counts), 0
    for bound, count in zip((*server.LATENCY_SECONDS, server.LATENCY_SECONDS[-1] * 2), counts, strict=False):
        passed += count
        if count and passed >= wanted:
            return bound
    return None
