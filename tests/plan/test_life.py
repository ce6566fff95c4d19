"""The life of a job as its owner sees it: created, trained, judged, served, changed, rolled back."""

from __future__ import annotations

from dataclasses import replace

from tests.support import worlds
from tests.support.worlds import World, ends_with, prepare_report
from topcoat.api import conditions, exits, promotion
from topcoat.plan import intent, plan, status
from topcoat.plan import promotion as decisions

REJECT = ends_with(0, promotion.Verdict.REJECT)
UNDECIDED = ends_with(0, promotion.Verdict.INCONCLUSIVE)


def settled(**spec: object) -> World:
    world = World()
    world.change(**spec)
    world.settle()
    return world


def states(world: World) -> dict[str, str]:
    return {version.version: version.state for version in world.status.versions}


def test_all_conditions_are_published_as_unknown_on_first_sight() -> None:
    world = World()
    first = world.step().status
    assert {condition.type for condition in first.conditions} == set(conditions.Condition)
    unknown = [condition for condition in first.conditions if condition.reason == "NotYetKnown"]
    assert {condition.status for condition in unknown} == {"Unknown"}
    assert len(unknown) == 4


def test_a_winner_is_promoted_and_served() -> None:
    world = settled()
    assert (world.status.promoted_version, world.status.served_version) == ("v1", "v1")
    assert world.condition("Ready") == ("True", "CandidatePromoted")
    assert world.condition("Reconciling")[0] == world.condition("Stalled")[0] == "False"
    assert world.condition("Serving") == ("True", "AliasReady")
    assert world.status.phase == "Ready"
    assert world.status.run is not None
    assert (world.status.run.number, world.status.run.trigger) == (1, "Created")
    assert status.exit_code(world.status) is exits.CliExit.PROMOTED


def test_the_same_inputs_do_nothing_and_say_nothing_new() -> None:
    world = settled()
    before, done, events = world.status, len(world.done), len(world.events)
    world.run_again()
    assert [type(action) for action in world.done[done:]] == [intent.StartPrepare]
    assert world.status == before
    assert len(world.events) == events


def test_what_changed_names_the_trigger() -> None:
    world = settled()
    world.prepared = prepare_report(data="d2")
    world.run_again()
    world.change(method={"layers": 4})
    world.settle()
    world.change(training={"epochs": 5})
    world.settle()
    world.change(retrain={"requestedAt": "2026-01-02T00:00:00Z"})
    world.settle()
    world.prepared = prepare_report(data="d2", base="e" * 64)
    world.run_again()
    assert [order.trigger for order in world.orders] == [
        "Created", "DatasetChanged", "MethodChanged", "TrainingChanged", "Requested", "BaseModelChanged",
    ]  # fmt: skip
    assert [order.run for order in world.orders] == [1, 2, 3, 4, 5, 6]


def test_changes_elsewhere_never_retrain() -> None:
    world = settled()
    world.change(output={"historyLimit": 9}, promotion={"policy": "Manual"}, evaluation={"seed": 3}, suspend=False)
    world.settle()
    assert [order.run for order in world.orders] == [1]
    assert world.status.observed_generation == world.job.metadata.generation


def test_a_losing_candidate_is_never_served() -> None:
    world = settled()
    world.trainer, world.prepared = REJECT, prepare_report(data="shuffled")
    world.run_again()
    assert states(world) == {"v1": "Promoted", "v2": "Rejected"}
    assert world.status.served_version == "v1"
    assert world.condition("Ready") == ("True", "CandidateRejected")
    assert world.condition("Promoted") == ("False", "CandidateRejected")
    assert world.status.phase == "Ready"
    assert status.exit_code(world.status) is exits.CliExit.REJECTED
    world.run_again()
    assert len(world.orders) == 2
    assert status.exit_code(world.status) is exits.CliExit.REJECTED


def test_a_first_candidate_that_loses_leaves_nothing_serving() -> None:
    world = World(trainer=REJECT)
    world.settle()
    assert world.status.phase == "Rejected"
    assert world.condition("Ready") == ("False", "CandidateRejected")
    assert world.condition("Stalled") == ("True", "CandidateRejected")  # a person must act
    assert world.seen.alias is None


def test_an_undecided_candidate_is_kept_and_exits_with_its_own_code() -> None:
    world = settled()
    world.trainer, world.prepared = UNDECIDED, prepare_report(data="few")
    world.run_again()
    assert world.condition("Ready") == ("True", "CandidateInconclusive")
    assert status.exit_code(world.status) is exits.CliExit.INCONCLUSIVE


def test_going_back_to_inputs_that_were_trained_trains_nothing() -> None:
    world = settled()
    world.trainer, world.prepared = REJECT, prepare_report(data="shuffled")
    world.run_again()
    world.prepared = prepare_report()
    world.run_again()
    assert [order.run for order in world.orders] == [1, 2]
    assert status.exit_code(world.status) is exits.CliExit.PROMOTED
    world.trainer, world.prepared = ends_with(0, promotion.Verdict.PROMOTE), prepare_report(data="more")
    world.run_again()
    assert world.orders[-1].run == 3
    assert states(world) == {"v1": "Previous", "v2": "Rejected", "v3": "Promoted"}
    world.prepared = prepare_report()
    world.run_again()
    assert states(world) == {"v1": "Promoted", "v2": "Rejected", "v3": "Previous"}


def test_a_roll_back_is_one_status_change_and_stays() -> None:
    world = settled()
    world.prepared = prepare_report(data="d2")
    world.run_again()
    assert (world.status.promoted_version, world.status.previous_version) == ("v2", "v1")
    back = decisions.by_hand(world.status, "v1", "RolledBack", "v1 is back")
    world.job = world.job.model_copy(update={"status": back})
    world.settle()
    assert world.status.served_version == "v1"
    assert states(world) == {"v1": "Promoted", "v2": "Previous"}
    assert world.condition("Ready") == ("True", "RolledBack")
    world.run_again()
    assert world.status.served_version == "v1"
    forth = decisions.by_hand(world.status, "v2", "RolledBack", "v2 is back")
    world.job = world.job.model_copy(update={"status": forth})
    world.settle()
    assert world.status.served_version == "v2"


def test_a_pinned_version_serves_and_promotion_stays() -> None:
    world = settled()
    world.prepared = prepare_report(data="d2")
    world.run_again()
    world.change(serving={"pinnedVersion": "v1"})
    world.settle()
    assert (world.status.served_version, world.status.promoted_version) == ("v1", "v2")
    assert world.condition("Serving") == ("True", "Pinned")
    world.change(serving={})
    world.settle()
    assert world.status.served_version == "v2"


def test_a_pinned_version_that_is_missing_stalls_and_serving_stays() -> None:
    world = settled()
    world.change(serving={"pinnedVersion": "v7"})
    world.settle()
    assert world.condition("Stalled") == ("True", "PinnedVersionMissing")
    assert world.status.served_version == "v1"
    assert status.exit_code(world.status) is exits.CliExit.ERROR


def test_manual_promotion_waits_for_a_commit() -> None:
    world = settled(promotion={"policy": "Manual"})
    assert world.status.phase == "AwaitingApproval"
    assert world.status.served_version is None
    assert states(world) == {"v1": "Candidate"}
    world.change(promotion={"policy": "Manual", "approvedVersion": "v1"})
    world.settle()
    assert world.status.served_version == "v1"
    assert world.condition("Promoted") == ("True", "CandidatePromoted")


def test_an_approved_version_that_is_missing_stalls() -> None:
    world = settled(promotion={"policy": "Manual", "approvedVersion": "v9"})
    assert world.condition("Stalled") == ("True", "ApprovedVersionMissing")


def test_reverting_an_approval_goes_back() -> None:
    world = settled(promotion={"policy": "Manual", "approvedVersion": "v1"})
    world.prepared = prepare_report(data="d2")
    world.run_again()
    world.change(promotion={"policy": "Manual", "approvedVersion": "v2"})
    world.settle()
    assert world.status.served_version == "v2"
    world.change(promotion={"policy": "Manual", "approvedVersion": "v1"})
    world.settle()
    assert world.status.served_version == "v1"


def test_promotion_never_keeps_all_and_serves_none() -> None:
    world = settled(promotion={"policy": "Never"})
    assert world.condition("Promoted") == ("False", "PromotionOff")
    assert world.seen.alias is None
    assert status.exit_code(world.status) is exits.CliExit.PROMOTED


def test_serving_none_has_no_alias() -> None:
    world = settled(serving={"mode": "None"})
    assert world.seen.alias is None
    assert world.condition("Ready") == ("True", "CandidatePromoted")
    assert world.condition("Serving") == ("False", "ServingOff")
    world.change(serving={})
    world.settle()
    assert world.status.served_version == "v1"
    world.change(serving={"mode": "None"})
    world.settle()
    assert world.seen.alias is None


def test_history_keeps_what_matters() -> None:
    world = settled(output={"historyLimit": 1})
    for number in range(2, 8):
        world.prepared = prepare_report(data=f"d{number}")
        world.trainer = REJECT if number in (5, 6, 7) else ends_with(0, promotion.Verdict.PROMOTE)
        world.run_again()
    assert states(world) == {"v3": "Previous", "v4": "Promoted", "v7": "Rejected"}
    assert [version.version for version in world.seen.versions] == ["v3", "v4", "v7"]


def test_a_version_that_changed_on_disk_is_not_pointed_at() -> None:
    world = settled()
    world.change(serving={"mode": "None"})
    world.settle()
    changed = tuple(replace(version, digest="sha256:" + "0" * 64) for version in world.seen.versions)
    world.seen = replace(world.seen, versions=changed)
    world.change(serving={})
    world.settle()
    assert world.seen.alias is None
    assert world.condition("Stalled") == ("True", "VersionUnusable")


def test_another_jobs_alias_is_not_taken() -> None:
    world = World()
    world.step()
    world.seen = replace(world.seen, alias=None)
    world.settle()
    assert world.seen.alias is not None
    world.seen = replace(world.seen, alias=replace(world.seen.alias, job="other"))
    world.settle()
    assert world.condition("Stalled") == ("True", "AliasTaken")
    assert world.seen.alias is not None
    assert world.seen.alias.job == "other"


def test_the_base_models_own_name_is_no_alias() -> None:
    world = worlds.in_cluster(serving={"modelName": "base"})
    assert world.prepared is not None
    card = world.prepared.base_model.model_copy(update={"id": "base"})
    world.prepared = world.prepared.model_copy(update={"base_model": card})
    world.settle()
    assert world.condition("Stalled") == ("True", "AliasTaken")
    assert (world.seen.alias, world.status.served_version) == (None, None)
    world.change(serving={"modelName": "claims"})
    world.settle()
    assert world.condition("Serving") == ("True", "AliasReady")


def test_a_transition_time_moves_only_with_its_status() -> None:
    world = settled()
    before = {condition.type.value: condition.last_transition_time for condition in world.status.conditions}
    world.trainer, world.prepared = REJECT, prepare_report(data="d2")
    world.run_again()
    after = {condition.type.value: condition.last_transition_time for condition in world.status.conditions}
    assert before["DatasetValid"] == after["DatasetValid"]
    assert before["Serving"] == after["Serving"]
    assert before["Promoted"] != after["Promoted"]


def test_each_transition_is_one_event() -> None:
    world = settled()
    assert [event.reason for event in world.events] == [
        "Checked", "RunStarted", "Completed", "CandidatePromoted", "AliasReady",
    ]  # fmt: skip
    assert "0.39 → 0.82" in world.events[3].message


def test_status_lost_is_rebuilt_from_the_volume() -> None:
    world = settled()
    world.prepared = prepare_report(data="d2")
    world.run_again()
    world.job = world.job.model_copy(update={"status": None})
    world.run_again()
    assert len(world.orders) == 2
    assert world.status.served_version == world.status.promoted_version == "v2"


def test_a_plan_is_pure() -> None:
    world = settled()
    assert plan.plan(world.job, world.seen, world.now) == plan.plan(world.job, world.seen, world.now)
