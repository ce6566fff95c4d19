"""Trainers report in Kubeflow's protocol: who speaks is settled by the API server's TokenReview and by ownership."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from tests.support import fates, operators
from tests.support.operators import Team

Json = dict[str, Any]
SAID: Json = {
    "trainerStatus": {
        "progressPercentage": 40,
        "estimatedRemainingSeconds": 90,
        "stage": "Training",
        "metrics": [{"name": "loss", "value": "0.5"}],
        "currentStep": 4,
        "totalSteps": 10,
    }
}


def post(operator: operators.Operator, token: str, body: Any) -> int:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"http://127.0.0.1:{operator.progress_port}/"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, data=data, headers=headers), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def token_of(team: Team, pod: str, audience: str = "topcoat-progress") -> str:
    words = ("create", "token", "default", "-n", team.namespace, f"--audience={audience}")
    return team.plane.kubectl(*words, "--bound-object-kind=Pod", f"--bound-object-name={pod}").strip()


def training(team: Team) -> str:
    """A pod that trains."""
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    pod = fates.run(team, fates.child(team, "train"))
    team.until("training", lambda said: said["phase"] == "Training")
    return pod


def test_a_trainers_report_is_in_the_jobs_status_within_a_second(team: Team, operator: operators.Operator) -> None:
    pod = training(team)
    assert post(operator, token_of(team, pod), SAID) == 200
    said = team.until("progress", lambda said: said["progress"]["percent"] == "40%", seconds=5)["status"]["progress"]
    assert (said["eta"], said["loss"], said["currentStep"], said["totalSteps"]) == ("1m30s", "0.5", 4, 10)
    owners = {entry["manager"] for entry in team.job()["metadata"]["managedFields"] if "status" in json.dumps(entry)}
    assert "topcoat-progress" in owners


def test_a_second_report_within_ten_seconds_is_heard_but_not_written(team: Team, operator: operators.Operator) -> None:
    pod = training(team)
    token = token_of(team, pod)
    assert post(operator, token, SAID) == 200
    assert post(operator, token, SAID) == 202


def test_the_stage_of_a_report_is_the_phase_of_the_job(team: Team, operator: operators.Operator) -> None:
    pod = training(team)
    judged = {"trainerStatus": {**SAID["trainerStatus"], "stage": "Evaluating", "progressPercentage": 90}}
    assert post(operator, token_of(team, pod), judged) == 200
    team.until("evaluating", lambda said: said["phase"] == "Evaluating", seconds=5)


def test_nobody_else_may_report(team: Team, operator: operators.Operator) -> None:
    pod = training(team)
    other = {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other", "namespace": team.namespace,
        "labels": {"topcoat.dev/job": "claims", "topcoat.dev/role": "train"}},
        "spec": {"securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
                 "containers": [{"name": "c", "image": "x", "securityContext": {
                     "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}}]},
    }  # fmt: skip
    team.plane.apply_objects([other])
    assert post(operator, "", SAID) == 401
    assert post(operator, "not-a-token", SAID) == 401
    assert post(operator, token_of(team, pod, "another-audience"), SAID) == 401
    # Its labels say that it trains, but no Job of ours made it.
    assert post(operator, token_of(team, "other"), SAID) == 401
    unbound = team.plane.kubectl("create", "token", "default", "-n", team.namespace, "--audience=topcoat-progress")
    assert post(operator, unbound.strip(), SAID) == 401
    assert "progress" not in team.job()["status"]


def test_a_report_that_is_none_is_refused(team: Team, operator: operators.Operator) -> None:
    token = token_of(team, training(team))
    for body in (b"", b"{}", b"[]", b'{"trainerStatus": 3}', b'{"trainerStatus": {"progressPercentage": "x"}}'):
        assert post(operator, token, body) == 400, body
    assert post(operator, token, b" " * 20_000) in (400, 413)
    assert "progress" not in team.job()["status"]
