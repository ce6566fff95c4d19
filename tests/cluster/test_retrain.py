"""New data behind an unchanged manifest, on the real API server: found by polling and by the clock."""

from __future__ import annotations

from tests.support import fates
from tests.support.operators import Team, condition


def trained(team: Team, **retrain: object) -> None:
    """The first run, to its end."""
    team.apply(retrain=retrain)
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    fates.end(team, fates.child(team, "train"), fates.sealed())
    team.until("ready", lambda said: said["phase"] == "Ready")


def test_polling_finds_new_data_and_goes_on_after_data_that_was_refused(team: Team) -> None:
    trained(team, onDataChange={"pollIntervalSeconds": 10})
    fates.end(team, fates.child(team, "prepare", 2, seconds=30), fates.failed(11, "train.jsonl:7: no answer"), code=11)
    team.until("refused", lambda said: condition(said, "DatasetValid")["status"] == "False")
    fates.end(team, fates.child(team, "prepare", 3, seconds=30), fates.prepared(data="d2"))
    fates.end(team, fates.child(team, "train", 2), fates.sealed("v2", digest="c" * 64))
    said = team.until("the second run is over", lambda said: said["run"].get("completionTime"))["status"]
    assert said["run"]["trigger"] == "DatasetChanged"
    assert said["run"]["number"] == 2


def test_a_schedule_looks_at_its_time_and_trains_only_what_changed(team: Team) -> None:
    trained(team, schedule="* * * * *")
    said = team.until("planned", lambda said: said["nextScheduleTime"])["status"]
    due = said["nextScheduleTime"]
    fates.end(team, fates.child(team, "prepare", 2, seconds=75), fates.prepared())
    said = team.until("looked at", lambda said: said["nextScheduleTime"] > due)["status"]
    assert (said["run"]["number"], said["phase"]) == (1, "Ready")
    fates.end(team, fates.child(team, "prepare", 3, seconds=75), fates.prepared(data="d2"))
    fates.child(team, "train", 2)
    assert len(team.children("train")) == 2
