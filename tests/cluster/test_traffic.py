"""Counts of several pods become one figure for each version."""

from __future__ import annotations

import pytest

from topcoat.api import server
from topcoat.cluster import traffic


def state(*told: server.Traffic, alias: str = "claims") -> server.AgentState:
    held = server.HeldAlias(alias=alias, job="claims", generation=1, traffic=told)
    return server.AgentState(
        ready=True, aliases=(held,), engine=server.EngineState(boot_id="b", name="Transformers", version="5")
    )


def counted(version: str, times: dict[int, int], failed: int = 0, empty: int = 0) -> server.Traffic:
    """`times`: how many answers fell to which place of LATENCY_SECONDS."""
    latency = [times.get(place, 0) for place in range(len(server.LATENCY_SECONDS) + 1)]
    total = sum(latency) + failed
    return server.Traffic(version=version, requests=total, failed=failed, empty=empty, latency=tuple(latency))


def test_pods_are_added_up_by_version_and_alias() -> None:
    pods = [
        state(counted("v1", {3: 5}), counted("v2", {4: 2}, failed=1)),
        state(counted("v2", {4: 1}, empty=1)),
        state(counted("v2", {9: 50}), alias="another"),
    ]
    found = traffic.of(pods, "claims")
    assert set(found) == {"v1", "v2"}
    assert (found["v2"].requests, found["v2"].failed, found["v2"].empty) == (4, 1, 1)
    assert traffic.of(pods, "nobody") == {}


@pytest.mark.parametrize(
    ("times", "place"), [({10: 100}, 10), ({10: 95, 20: 5}, 10), ({10: 94, 20: 6}, 20), ({10: 1}, 10)]
)
def test_of_a_hundred_answers_ninety_five_ended_within_it(times: dict[int, int], place: int) -> None:
    found = traffic.of([state(counted("v1", times))], "claims")
    assert found["v1"].p95_seconds == server.LATENCY_SECONDS[place]


def test_without_an_answer_there_is_no_time_and_beyond_all_bounds_there_is_one() -> None:
    last = len(server.LATENCY_SECONDS)
    assert traffic.of([state(counted("v1", {}, failed=3))], "claims")["v1"].p95_seconds is None
    found = traffic.of([state(counted("v1", {last: 3}))], "claims")
    assert (found["v1"].p95_seconds or 0) > server.LATENCY_SECONDS[-1]
