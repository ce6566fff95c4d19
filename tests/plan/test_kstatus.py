"""What GitOps tools make of every phase, by kstatus' published rules (sigs.k8s.io/cli-utils, pkg/kstatus, README)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support import worlds
from topcoat.api import conditions, finetunejob, promotion

Json = dict[str, Any]
Phase = conditions.Phase


def kstatus(body: Json) -> str:
    """The rules for a custom resource, in their order."""
    said = body.get("status") or {}
    if "deletionTimestamp" in body["metadata"]:
        return "Terminating"
    if said.get("observedGeneration", body["metadata"]["generation"]) != body["metadata"]["generation"]:
        return "InProgress"
    holds = {condition["type"]: condition["status"] for condition in said.get("conditions", ())}
    if holds.get("Reconciling") == "True":
        return "InProgress"
    if holds.get("Stalled") == "True":
        return "Failed"
    return "InProgress" if holds.get("Ready", "True") != "True" else "Current"


def as_object(job: finetunejob.FineTuneJob) -> Json:
    return job.as_json()


EXPECTED = {
    Phase.PENDING: {"InProgress"},
    Phase.PREPARING: {"InProgress"},
    Phase.QUEUED: {"InProgress", "Failed"},  # Failed: the image cannot be pulled, and the like
    Phase.TRAINING: {"InProgress"},
    Phase.EVALUATING: {"InProgress"},
    Phase.AWAITING_APPROVAL: {"InProgress", "Current"},  # Current: another version serves meanwhile
    Phase.ROLLING_OUT: {"InProgress"},
    Phase.READY: {"Current"},
    Phase.REJECTED: {"Failed"},
    Phase.FAILED: {"Failed"},
    Phase.SUSPENDED: {"InProgress", "Current"},
}


def lives() -> dict[str, worlds.World]:
    """Worlds that pass through all the phases that one machine has."""
    verdicts = promotion.Verdict
    manual = worlds.job(promotion={"policy": "Manual"})
    return {
        "winner": worlds.World(worlds.job()),
        "loser": worlds.World(worlds.job(), trainer=worlds.ends_with(0, verdicts.REJECT)),
        "broken": worlds.World(worlds.job(), trainer=worlds.ends_with(14)),
        "manual": worlds.World(manual),
        "suspended": worlds.World(worlds.job(suspend=True)),
    }


@pytest.mark.parametrize("name", ["winner", "loser", "broken", "manual", "suspended"])
def test_a_phase_means_to_gitops_tools_what_it_says(name: str) -> None:
    world = lives()[name]
    seen: set[Phase] = set()
    for job in world.steps():
        body = as_object(job)
        phase = Phase(body["status"]["phase"])
        assert kstatus(body) in EXPECTED[phase], (phase, body["status"]["conditions"])
        seen.add(phase)
    assert len(seen) >= 2 or name == "suspended"


def test_an_edit_that_nobody_looked_at_yet_is_in_progress() -> None:
    world = lives()["winner"]
    *_, last = world.steps()
    body = as_object(last)
    assert kstatus(body) == "Current"
    body["metadata"]["generation"] += 1
    assert kstatus(body) == "InProgress"


def test_every_phase_is_in_the_table() -> None:
    assert set(EXPECTED) == set(Phase)
