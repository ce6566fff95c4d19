"""A job's life on a real control plane: the API server, the Job controller and the scheduler are real, and the
operator has the rights of the chart. Pods end as the tests say, because there is no node."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.support import fates, operators
from tests.support.operators import Team, condition

Json = dict[str, Any]


def trained(team: Team, name: str = "claims", word: Json | None = None) -> Json:
    """From nothing to a decided version."""
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    fates.run(team, job)
    team.until("training", lambda said: said["phase"] == "Training", name)
    fates.end(team, job, word or fates.sealed())
    return team.until("a decision", lambda said: bool(condition(said, "Promoted")["status"] != "Unknown"), name)


def run_file(job: Json) -> Json:
    found: Json = json.loads(job["spec"]["template"]["metadata"]["annotations"]["topcoat.dev/run-file"])
    return found


def test_a_job_is_prepared_trained_judged_and_promoted(team: Team) -> None:
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    queued = team.until("queued", lambda said: said["phase"] == "Queued")["status"]
    assert condition(queued, "DatasetValid")["status"] == "True"
    assert condition(queued, "Admitted")["status"] == "False"
    job = fates.child(team, "train")
    fates.run(team, job)
    training = team.until("training", lambda said: said["phase"] == "Training")["status"]
    assert condition(training, "Admitted")["status"] == "True"
    fates.end(team, job, fates.sealed())
    done = team.until("ready", lambda said: said["phase"] == "Ready")["status"]
    assert done["promotedVersion"] == "v1"
    assert done["versions"][0]["path"].endswith("/versions/v1")
    assert done["versions"][0]["path"].startswith("pvc://topcoat-adapters/jobs/claims-")
    assert done["evaluation"]["score"] == "0.39 → 0.82"
    assert [condition(done, kind)["status"] for kind in ("Ready", "Reconciling", "Stalled")] == [
        "True",
        "False",
        "False",
    ]
    wanted = {"Checked", "RunStarted", "Completed", "CandidatePromoted"}
    deadline = time.monotonic() + 10
    while not wanted <= {event["reason"] for event in team.events()}:  # they follow the status
        assert time.monotonic() < deadline, team.events()
        time.sleep(0.1)


def test_up_to_the_first_job_there_are_two_writes_no_get_and_at_most_one_event(
    team: Team, operator: operators.Operator
) -> None:
    team.apply("first")
    fates.child(team, "prepare")
    team.until("said", lambda said: said["phase"] == "Preparing", "first")
    team.plane.requests.mark()
    for number in range(5):
        team.apply(f"job-{number}")
    fates.child(team, "prepare", 6)
    for number in range(5):
        team.until("said", lambda said: said["phase"] == "Preparing", f"job-{number}")
    counts = team.plane.requests.counts(operator.user, team.namespace)
    assert counts.pop(("create", "jobs")) == 5
    assert counts.pop(("patch", "finetunejobs/status")) <= 10  # one each, and one where the scheduler's news came first
    assert counts.pop(("create", "events"), 0) <= 6  # one each, and the first job's, which follows its status
    assert {what: count for what, count in counts.items() if what[1] != "leases"} == {}


def test_where_nothing_happens_nothing_is_written(team: Team, operator: operators.Operator) -> None:
    team.apply()
    trained(team)
    time.sleep(2)
    team.plane.requests.mark()
    time.sleep(5)
    asked = team.plane.requests.requests(operator.user, team.namespace)
    assert [(one.verb, one.resource) for one in asked if one.writes and one.resource != "leases"] == []


def test_rows_that_cannot_be_used_end_the_job_before_anything_expensive(team: Team) -> None:
    team.apply()
    word = fates.failed(11, "train.jsonl:7: no completion", "add the field")
    fates.end(team, fates.child(team, "prepare"), word, code=11)
    said = team.until("failed", lambda said: said["phase"] == "Failed")["status"]
    assert said["failure"] == {"category": "Data", "message": "train.jsonl:7: no completion", "hint": "add the field"}
    assert condition(said, "DatasetValid")["status"] == "False"
    assert condition(said, "Stalled")["status"] == "True"
    assert team.children("train") == []


def test_where_memory_runs_out_the_next_attempt_has_half_the_micro_batch(team: Team) -> None:
    team.apply(training={"effectiveBatchSize": 16, "microBatchSize": 8})
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    fates.end(team, fates.child(team, "train"), fates.failed(13, "memory ran out"), code=13)
    second = fates.child(team, "train", 2)
    assert second.endswith("-r1-a2")
    told = run_file(next(body for body in team.children("train") if body["metadata"]["name"] == second))
    assert told["training"]["microBatchSize"] == 4
    assert told["training"]["effectiveBatchSize"] == 16
    fates.end(team, second, fates.sealed())
    assert team.until("ready", lambda said: said["phase"] == "Ready")["status"]["run"]["attempt"] == 2


def test_a_trainer_that_the_kernel_killed_is_out_of_memory(team: Team) -> None:
    team.apply(lifecycle={"backoffLimit": 0})
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    fates.end(team, fates.child(team, "train"), None, code=137, because="OOMKilled")
    said = team.until("failed", lambda said: said["phase"] == "Failed")["status"]
    assert said["failure"]["category"] == "OutOfMemory"
    assert "OOMKilled" in said["failure"]["message"]
    assert said["failure"]["hint"]


def test_exit_0_without_a_sealed_version_is_a_failure(team: Team) -> None:
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    fates.end(team, fates.child(team, "train"), None)
    inspect = fates.child(team, "inspect")
    fates.end(team, inspect, {"outcome": "Inspected"})
    said = team.until("failed", lambda said: said["phase"] == "Failed")["status"]
    assert condition(said, "Trained")["status"] == "False"
    assert said["failure"]["category"] == "Infrastructure"
    assert "promotedVersion" not in said


def test_a_lost_last_word_is_found_on_the_volume(team: Team) -> None:
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    fates.end(team, fates.child(team, "train"), None, code=137)
    found = {**fates.sealed(), "outcome": "Inspected"}
    fates.end(team, fates.child(team, "inspect"), found)
    assert team.until("ready", lambda said: said["phase"] == "Ready")["status"]["promotedVersion"] == "v1"


def test_an_evicted_pod_is_replaced_and_no_attempt_is_counted(team: Team) -> None:
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    first = fates.run(team, job)
    fates.evict(team, job)
    deadline = time.monotonic() + 60
    while not [pod for pod in team.pods(job) if pod["metadata"]["name"] != first]:
        assert time.monotonic() < deadline, "no other pod"
        time.sleep(0.2)
    fates.end(team, job, fates.sealed())
    said = team.until("ready", lambda said: said["phase"] == "Ready")["status"]
    assert said["run"]["attempt"] == 1
    assert len(team.children("train")) == 1


def test_a_suspended_job_gives_its_pods_back_and_goes_on_with_the_same_attempt(team: Team) -> None:
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    fates.run(team, job)
    team.until("training", lambda said: said["phase"] == "Training")
    before = team.children("train")[0]["metadata"]["uid"]
    team.apply(suspend=True)
    team.until("suspended", lambda said: said["phase"] == "Suspended")
    pod = team.pods(job)
    if pod:  # without a kubelet nobody ends it
        team.plane.kubectl(
            "delete", "pod", pod[-1]["metadata"]["name"], "-n", team.namespace, "--force", "--ignore-not-found"
        )
    deadline = time.monotonic() + 20
    while team.children("train"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    team.apply(suspend=False)
    assert fates.child(team, "train") == job
    assert team.children("train")[0]["metadata"]["uid"] != before
    fates.end(team, job, fates.sealed())
    assert team.until("ready", lambda said: said["phase"] == "Ready")["status"]["run"]["attempt"] == 1


def test_changed_inputs_are_another_run_and_a_loser_changes_nothing(team: Team) -> None:
    team.apply()
    trained(team)
    team.apply(training={"epochs": 5})
    fates.end(team, fates.child(team, "prepare", 2), fates.prepared())
    second = fates.child(team, "train", 2)
    assert "-r2-a1" in second
    fates.end(team, second, fates.sealed("v2", "Reject", "f" * 64))
    said = team.until("decided", lambda said: len(said["versions"]) == 2 and said["phase"] == "Ready")["status"]
    assert said["promotedVersion"] == "v1"
    assert condition(said, "Ready")["reason"] == "CandidateRejected"
    assert [version["state"] for version in said["versions"]] == ["Promoted", "Rejected"]


def test_a_deleted_job_takes_its_jobs_along_and_leaves_the_claims(team: Team) -> None:
    team.apply()
    trained(team)
    team.plane.kubectl("delete", "ftj", "claims", "-n", team.namespace)
    deadline = time.monotonic() + 30
    while team.children():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    claims = [claim["metadata"]["name"] for claim in team.read("api/v1", "persistentvolumeclaims")["items"]]
    assert sorted(claims) == ["topcoat-adapters", "topcoat-models"]


def test_a_quota_is_told_and_waited_for(team: Team) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q", "namespace": team.namespace},
             "spec": {"hard": {"count/jobs.batch": "0"}}}  # fmt: skip
    team.plane.apply_objects([quota])
    time.sleep(1)
    team.apply()
    said = team.until("quota", lambda said: condition(said, "Ready")["reason"] == "QuotaExceeded")["status"]
    assert "count/jobs.batch" in condition(said, "Ready")["message"]
    assert condition(said, "Stalled")["status"] == "False"
    team.plane.kubectl("delete", "resourcequota", "q", "-n", team.namespace)
    fates.end(team, fates.child(team, "prepare", seconds=60), fates.prepared())
    team.until("queued", lambda said: said["phase"] == "Queued", seconds=30)


def test_a_missing_profile_is_said_and_its_coming_is_noticed(team: Team) -> None:
    team.apply(profile="not-there-yet-" + team.namespace[-6:])
    said = team.until("missing", lambda said: condition(said, "Stalled")["reason"] == "ProfileMissing")["status"]
    assert said["failure"]["category"] == "UserInput"
    operators.make_profile(team.plane, "not-there-yet-" + team.namespace[-6:])
    fates.child(team, "prepare")
    team.plane.kubectl("delete", "finetuneprofile", "not-there-yet-" + team.namespace[-6:])


def test_a_job_made_anew_under_its_old_name_begins_anew(team: Team) -> None:
    team.apply()
    trained(team)
    team.plane.kubectl("delete", "ftj", "claims", "-n", team.namespace, "--cascade=foreground")
    team.apply()
    said = team.until("preparing", lambda said: said["phase"] == "Preparing")["status"]
    assert said["versions"] == []
    assert "run" not in said
