"""A canary as its owner sees it: it goes on while answers are good, and gives way when they are not."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from tests.support import worlds
from tests.support.worlds import World
from topcoat.api import status
from topcoat.plan import intent, observed, plan, promotion

STEPS = [{"weight": 10, "pauseSeconds": 60}, {"weight": 50, "pauseSeconds": 60}]
RULES = {"maxErrorRate": "0.05", "maxLatencyRatio": "1.5", "maxEmptyRate": "0.1", "minSamples": 50}
GOOD = observed.Traffic(requests=60, p95_seconds=0.1)
OLD = observed.Traffic(requests=500, failed=1, empty=5, p95_seconds=0.1)


def serving(**rollout: Any) -> dict[str, Any]:
    return {"rollout": {"type": "Canary", "steps": STEPS, "analysis": RULES, **rollout}}


def begun(**rollout: Any) -> World:
    """v1 serves; v2 has won and is at its first step."""
    world = worlds.in_cluster(serving=serving(**rollout))
    world.settle()
    assert world.status.served_version == "v1"
    world.change(training={"epochs": 5})
    for _ in range(12):
        world.step()
    return world


def answered(world: World, new: observed.Traffic = GOOD, old: observed.Traffic = OLD, seconds: float = 61) -> None:
    """Requests come in, and time goes by."""
    rollout = world.status.rollout
    assert rollout is not None
    assert world.seen.server is not None
    told = {rollout.version: new, rollout.previous: old}
    world.seen = replace(world.seen, server=replace(world.seen.server, traffic=told))
    world.now += timedelta(seconds=seconds)
    for _ in range(4):
        world.step()


def share(world: World) -> tuple[str | None, int]:
    """Where the alias file points, and what the new version gets."""
    assert world.seen.server is not None
    return world.seen.server.target, world.seen.server.weight


def state(world: World) -> str:
    assert world.status.rollout is not None
    return world.status.rollout.state.value


def test_the_first_version_is_no_canary() -> None:
    world = begun()
    assert [action.watched for action in world.done if isinstance(action, intent.WriteAlias)][:2] == [None, None]


def test_a_good_version_goes_through_all_steps_and_answers_everything() -> None:
    world = begun()
    assert share(world) == ("v1", 10)
    assert (world.status.served_version, world.status.canary_weight, world.status.phase) == ("v1", 10, "RollingOut")
    assert world.condition("Serving") == ("True", "Canary")
    answered(world)
    assert share(world) == ("v1", 50)
    answered(world, replace(GOOD, requests=120))
    world.settle()
    assert share(world) == ("v2", 0)
    assert (world.status.served_version, world.status.canary_weight, world.status.phase) == ("v2", None, "Ready")
    assert state(world) == "Done"
    assert [event.reason for event in world.events if event.reason.startswith("Canary")] == [
        "CanaryStep", "CanaryStep", "CanaryDone",
    ]  # fmt: skip


def test_a_step_waits_for_its_time_and_for_its_answers() -> None:
    world = begun()
    answered(world, seconds=20)
    assert share(world) == ("v1", 10)
    answered(world, replace(GOOD, requests=49))
    assert share(world) == ("v1", 10)
    answered(world, seconds=0)
    assert share(world) == ("v1", 50)
    # Answers of the step before do not count for this one.
    answered(world, replace(GOOD, requests=80))
    assert share(world) == ("v1", 50)
    # A pod that began anew counts from nothing.
    answered(world, replace(GOOD, requests=50))
    world.settle()
    assert share(world) == ("v2", 0)


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (replace(GOOD, requests=10, failed=3), "3 of 10 requests failed"),
        (replace(GOOD, failed=4), "4 of 60 requests failed"),
        (replace(GOOD, empty=7), "7 of 60 answers are empty"),
        (replace(GOOD, p95_seconds=0.2), "answers take 2 times as long"),
    ],
)
def test_a_version_that_answers_badly_gives_way_by_itself(new: observed.Traffic, words: str) -> None:
    world = begun()
    answered(world, new)
    world.settle()
    assert share(world) == ("v1", 0)
    assert (world.status.served_version, world.status.promoted_version) == ("v1", "v1")
    assert (state(world), world.status.phase, world.status.canary_weight) == ("RolledBack", "Ready", None)
    assert world.condition("Promoted") == ("False", "RolledBack")
    assert world.status.rollout is not None
    assert words in world.status.rollout.message
    (event,) = [event for event in world.events if event.reason == "CanaryRolledBack"]
    assert (event.type, words in event.message) == ("Warning", True)
    # It stays so, whatever comes.
    world.now += timedelta(days=1)
    assert not world.settle().actions


@pytest.mark.parametrize(
    "new", [replace(GOOD, failed=2), replace(GOOD, empty=6), replace(GOOD, p95_seconds=0.14), observed.Traffic()]
)
def test_what_is_within_the_analysis_is_no_reason(new: observed.Traffic) -> None:
    world = begun()
    answered(world, new)
    assert state(world) == "Progressing"


def test_too_few_answers_are_not_judged_by_their_time_and_the_step_waits_for_more() -> None:
    """Of either: with few of the old version's, a slow one would go through all steps unseen."""
    world = begun()
    few, slow = replace(OLD, requests=49), replace(GOOD, p95_seconds=9.0)
    answered(world, new=slow, old=few)
    assert (state(world), share(world)) == ("Progressing", ("v1", 10))
    answered(world, new=slow, old=replace(OLD, requests=50))
    assert state(world) == "RolledBack"


def test_what_a_pod_refuses_gives_way() -> None:
    world = begun()
    assert world.seen.server is not None
    refused = {world.seen.server.written["v2"]: "the golden probes differ by 3"}
    world.seen = replace(world.seen, server=replace(world.seen.server, refused=refused))
    world.settle()
    assert (world.status.served_version, state(world)) == ("v1", "RolledBack")


def test_without_automatic_rollback_a_person_is_asked_and_the_share_stays() -> None:
    world = begun(autoRollback=False)
    answered(world, replace(GOOD, failed=30))
    assert (state(world), share(world)) == ("Held", ("v1", 10))
    assert world.condition("Stalled") == ("True", "CanaryHeld")
    world.change(serving={**serving(autoRollback=False), "pinnedVersion": "v1"})
    world.settle()
    assert (world.status.served_version, share(world)) == ("v1", ("v1", 0))


def test_after_the_last_step_it_is_watched_while_it_bakes() -> None:
    world = begun(bakeSeconds=600)
    answered(world)
    answered(world, replace(GOOD, requests=120))
    assert (share(world), state(world), world.status.served_version) == (("v2", 100), "Progressing", "v2")
    answered(world, observed.Traffic(requests=400, failed=200, p95_seconds=0.1))
    world.settle()
    assert (share(world), state(world), world.status.promoted_version) == (("v1", 0), "RolledBack", "v1")


def test_a_pin_and_an_edit_end_a_canary_at_once() -> None:
    pinned, edited = begun(), begun()
    pinned.change(serving={**serving(), "pinnedVersion": "v2"})
    pinned.settle()
    edited.change(serving={"rollout": {"type": "Immediate"}})
    edited.settle()
    for world in (pinned, edited):
        assert (share(world), world.status.served_version) == (("v2", 0), "v2")
        assert world.status.canary_weight is None


def test_a_newer_winner_is_tried_against_what_served_before() -> None:
    world = begun()
    world.change(training={"epochs": 6})
    for _ in range(12):
        world.step()
    assert share(world) == ("v1", 10)
    assert world.status.rollout is not None
    assert (world.status.rollout.version, world.status.rollout.previous) == ("v3", "v1")


def test_going_back_by_hand_is_no_canary() -> None:
    world = begun()
    answered(world)
    answered(world, replace(GOOD, requests=120))
    world.settle()
    by_hand = promotion.by_hand(world.status, "v1", "RolledBack", "somebody wants v1")
    world.job = world.job.model_copy(update={"status": by_hand})
    world.settle()
    assert (share(world), world.status.served_version) == (("v1", 0), "v1")


def test_a_status_is_written_per_step_and_not_per_answer() -> None:
    world = begun()
    before = world.status
    for requests in range(1, 40):
        answered(world, replace(GOOD, requests=requests), seconds=0)
    assert world.status == before


COUNTS = st.integers(0, 400)
TRAFFIC = st.builds(
    observed.Traffic, requests=COUNTS, failed=COUNTS, empty=COUNTS, p95_seconds=st.none() | st.floats(0, 50)
)


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(
    told=st.lists(st.tuples(TRAFFIC, TRAFFIC, st.integers(0, 200)), max_size=6),
    rollout=st.fixed_dictionaries({}, optional={"autoRollback": st.just(False), "bakeSeconds": st.integers(1, 90)}),
)
def test_whatever_the_traffic_the_alias_points_to_proved_versions_and_it_ends(
    told: list[tuple[observed.Traffic, observed.Traffic, int]], rollout: dict[str, Any]
) -> None:
    world = begun(**rollout)
    for new, old, seconds in told:
        if world.status.rollout is None or world.status.rollout.state is status.RolloutState.ROLLED_BACK:
            break
        answered(world, new, old, seconds)
        assert world.seen.server is not None
        assert {world.seen.server.target} <= set(world.seen.server.written)
    settled = plan.plan(world.job, world.seen, world.now)
    again = plan.plan(world.job.model_copy(update={"status": settled.status}), world.seen, world.now)
    if not settled.actions:
        assert again.status == settled.status
