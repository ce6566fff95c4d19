"""Whatever goes wrong at any write, the end is the end of an undisturbed run: the same state, the same children, no
duplicate and no orphan. The operator is a real process; a gate between it and the real API server makes the fault."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import fates, operators
from tests.support.faults import Fault, Gate, Plan
from tests.support.kube import control_plane as planes
from tests.support.kube import port
from tests.support.operators import Team, condition

Json = dict[str, Any]

Story = tuple[Team, operators.Operator, Gate]


@pytest.fixture
def story(
    control_plane: planes.ControlPlane, namespace: str, fresh_operator: Callable[..., operators.Operator]
) -> Iterator[Story]:
    gate = Gate(control_plane.server.url, control_plane.server.authority, port.reserve())
    operators.make_profile(control_plane, namespace)
    operator = fresh_operator([namespace], gate=gate.url)
    yield Team(control_plane, namespace, namespace), operator, gate
    gate.close()
    control_plane.kubectl("delete", "finetuneprofile", namespace, "--ignore-not-found")


def keep_alive(operator: operators.Operator) -> None:
    """What a Deployment does: an operator that ended is started again."""
    if not operator.alive:
        operator.start()


def lived(team: Team, operator: operators.Operator) -> Json:
    """A whole life, with whatever happens on the way; returns what matters of its end."""
    keep_alive(operator)
    team.apply()
    for role, word in (("prepare", fates.prepared()), ("train", fates.sealed())):
        deadline = time.monotonic() + 60
        while not team.children(role):
            keep_alive(operator)
            assert time.monotonic() < deadline, f"no {role} Job\n{operator.log[-3000:]}"
            time.sleep(0.05)
        fates.end(team, fates.child(team, role), word)
    deadline = time.monotonic() + 60
    while (team.job().get("status") or {}).get("phase") != "Ready":
        keep_alive(operator)
        assert time.monotonic() < deadline, f"{team.job().get('status')}\n{operator.log[-3000:]}"
        time.sleep(0.05)
    time.sleep(1)
    return ending(team)


def ending(team: Team) -> Json:
    """The end without names that are new in each life: what there is, and what status says."""
    said = team.job()["status"]
    return {
        "jobs": sorted(body["metadata"]["name"] for body in team.children()),
        "claims": sorted(c["metadata"]["name"] for c in team.read("api/v1", "persistentvolumeclaims")["items"]),
        "conditions": [(found["type"], found["status"], found["reason"]) for found in said["conditions"]],
        "phase": said["phase"],
        "versions": [(version["version"], version["state"], version["digest"]) for version in said["versions"]],
        "run": {name: said["run"].get(name) for name in ("number", "attempt", "trigger", "inputHash")},
    }


def writes(gate: Gate, namespace: str) -> list[str]:
    return [what.replace(namespace, "NS") for what in gate.plan.writes]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_write_may_go_wrong_in_every_way(story: Story) -> None:
    team, operator, gate = story
    reference = lived(team, operator)
    undisturbed = len(gate.plan.writes)
    kinds = {what.rsplit("/", 1)[-1] if what.startswith("POST") else what.split("/")[-2] for what in gate.plan.writes}
    assert {"jobs", "persistentvolumeclaims"} <= kinds
    assert undisturbed >= 10
    tried = 0
    # Each write once, the faults in turn: each kind of write meets several of them.
    faults = list(Fault)
    for number in range(1, undisturbed + 1):
        fault = faults[number % len(faults)]
        clear(team)
        operator.stop()  # one that has just started knows of nothing, and asks for the claims and policies again
        gate.plan = Plan(number, fault, operator.kill)
        found = lived(team, operator)
        assert found == reference, f"write {number} ({gate.plan.writes[number - 1]}) {fault}"
        tried += gate.plan.happened
    assert tried >= undisturbed - 2  # the last writes are news that a shorter way may leave out


def clear(team: Team) -> None:
    """As before the first life, so that every write happens again."""
    team.plane.kubectl("delete", "ftj", "claims", "-n", team.namespace, "--timeout=60s")
    deadline = time.monotonic() + 60
    while team.children():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_while_the_api_server_is_away_nothing_is_lost(story: Story) -> None:
    team, operator, _ = story
    operator.start()
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    team.plane.kill_api_server()
    time.sleep(3)
    team.plane.start_api_server()
    fates.end(team, job, fates.sealed())
    team.until("ready", lambda said: said["phase"] == "Ready", seconds=60)
    assert len(team.children("train")) == 1


def test_with_the_operator_away_a_run_ends_and_is_promoted_afterwards(story: Story) -> None:
    team, operator, _ = story
    operator.start()
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    operator.stop()
    fates.run(team, job)
    fates.end(team, job, fates.sealed())
    assert team.job()["status"]["phase"] != "Ready"
    operator.start()
    said = team.until("ready", lambda said: said["phase"] == "Ready")["status"]
    assert said["promotedVersion"] == "v1"


def test_an_edit_in_the_middle_of_a_run_is_another_run_after_it(story: Story) -> None:
    team, operator, _ = story
    operator.start()
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    fates.run(team, job)
    team.until("training", lambda said: said["phase"] == "Training")
    team.apply(training={"epochs": 7})
    fates.end(team, fates.child(team, "prepare", 2), fates.prepared())
    time.sleep(1)
    assert len(team.children("train")) == 1, "the run that is going on is not disturbed"
    fates.end(team, job, fates.sealed())
    second = fates.child(team, "train", 2)
    assert second.endswith("-r2-a1")


def test_an_edit_at_the_very_moment_of_a_status_write_is_not_lost(story: Story) -> None:
    team, operator, gate = story
    operator.start()
    edits: list[str] = []

    def edit(what: str) -> None:
        if what.endswith("/finetunejobs/claims/status") and not edits:
            edits.append(what)
            team.apply(suspend=True)

    gate.plan.meanwhile = edit
    team.apply()
    team.until("suspended", lambda said: said["phase"] == "Suspended", seconds=20)
    assert edits


def test_a_profile_that_changes_does_not_touch_a_run_that_is_going_on(story: Story) -> None:
    team, operator, _ = story
    operators.make_profile(team.plane, team.namespace, {"trainer": {"nodeSelector": {"pool": "old"}}})
    operator.start()
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    fates.child(team, "train")
    operators.make_profile(team.plane, team.namespace, {"trainer": {"nodeSelector": {"pool": "new"}}})
    operator.stop()
    operator.start()
    fates.end(team, fates.child(team, "train"), fates.failed(1), code=1)
    second = fates.child(team, "train", 2, seconds=40)
    pods = next(body for body in team.children("train") if body["metadata"]["name"] == second)["spec"]["template"]
    assert pods["spec"]["nodeSelector"] == {"pool": "old"}


def test_of_two_operators_one_works(story: Story, fresh_operator: Callable[..., operators.Operator]) -> None:
    team, operator, _ = story
    operator.start()
    other = operators.Operator(team.plane, [team.namespace], {"TOPCOAT_POD_NAME": "operator-1"})
    other.namespace = operator.namespace
    other.install()
    other.start_waiting()
    try:
        team.apply()
        fates.child(team, "prepare")
        operator.kill()
        fates.end(team, fates.child(team, "prepare"), fates.prepared())
        fates.child(team, "train", seconds=60)  # the other has taken over, after the Lease ran out
    finally:
        other.stop()


def test_of_many_jobs_at_once_each_says_within_seconds_why_its_pod_waits(story: Story) -> None:
    """A pod's news may come between a plan and the status that tells it; it must not wait for the next full look."""
    team, operator, _ = story
    names = [f"job-{number}" for number in range(200)]
    team.apply_all(names)
    operator.start()
    for name in names:
        team.until("why", lambda said: "node" in condition(said, "Ready")["message"], name, seconds=60)
