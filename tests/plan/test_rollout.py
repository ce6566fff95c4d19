"""How an alias moves, as its owner sees it: what is on its way, what waits, and what a person must look at."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from tests.support import worlds
from tests.support.worlds import World
from topcoat.api import status
from topcoat.plan import observed

REFUSED = {worlds.digest("v1"): "no such folder"}


def moving(**server: Any) -> World:
    """v1 was promoted and its file written; so far the server's pods answer with nothing."""
    world = worlds.in_cluster()
    world.settle()
    seen = replace(_server(world), proved=frozenset(), answers=None, **server)
    world.seen = replace(world.seen, server=seen)
    world.step()
    return world


def _server(world: World) -> observed.Server:
    assert world.seen.server is not None
    return world.seen.server


def serving(world: World) -> status.ConditionStatus:
    return next(condition for condition in world.status.conditions if condition.type == "Serving")


def test_while_pods_without_the_versions_claim_are_replaced_it_is_on_its_way() -> None:
    world = moving(outdated=True)
    assert "pods that have its claim take the place of those that have not" in serving(world).message
    assert (world.status.phase, world.condition("Serving")) == ("RollingOut", ("False", "RollingOut"))
    assert world.condition("Stalled")[0] == "False"


def test_without_such_pods_nothing_is_said_of_claims() -> None:
    assert serving(moving()).message == "the alias claims moves from nothing to v1"


def test_what_keeps_their_successors_from_starting_is_told_while_the_old_ones_answer() -> None:
    """Where all pods have the claim, another one that waits is no reason: those that are ready prove the version."""
    waits = observed.Waiting(observed.Wait.VOLUME, "the claim attic is not bound", worlds.START - timedelta(hours=1))
    stuck, rolling = moving(outdated=True, waiting=waits), moving(waiting=waits)
    assert stuck.condition("Stalled") == ("True", "VolumeUnbound")
    assert "the claim attic is not bound" in serving(stuck).message
    assert rolling.condition("Serving") == ("False", "RollingOut")


def test_what_a_pod_refuses_needs_a_person() -> None:
    world = moving(refused=REFUSED)
    assert world.condition("Stalled") == ("True", "VersionUnusable")
    assert serving(world).message == "the server refuses v1: no such folder"


def test_it_is_no_longer_rolling_out_once_no_pod_answers_with_another_version() -> None:
    world = worlds.in_cluster()
    world.settle()
    world.seen = replace(world.seen, server=replace(_server(world), alone=False))
    world.step()
    assert (world.status.phase, world.condition("Serving")) == ("RollingOut", ("True", "Canary"))
    world.seen = replace(world.seen, server=replace(_server(world), alone=True))
    world.step()
    assert (world.status.phase, world.condition("Serving")) == ("Ready", ("True", "AliasReady"))
