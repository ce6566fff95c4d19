"""What people see of a job through kubectl."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.test_life import trained
from tests.support import fates
from tests.support.kube import control_plane as planes
from tests.support.operators import Team, condition

Json = dict[str, Any]


def test_kubectl_get_shows_phase_scores_version_and_age(team: Team) -> None:
    team.apply()
    trained(team)
    team.until("ready", lambda said: said["phase"] == "Ready")
    head, line = team.plane.kubectl("get", "ftj", "-n", team.namespace).splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "ETA", "SCORE", "VERSION", "AGE"]
    assert line.split()[:2] == ["claims", "Ready"]
    assert "0.39 → 0.82" in line


def test_kubectl_explain_reads_well(control_plane: planes.ControlPlane) -> None:
    text = control_plane.kubectl("explain", "ftj.spec.method")
    assert "DESCRIPTION" in text
    for field in ("type", "layers", "lora"):
        assert f"  {field}\t" in text
    assert "last" in control_plane.kubectl("explain", "ftj.spec.method.layers")


def test_the_queue_is_on_the_training_job_and_its_words_are_told(team: Team) -> None:
    team.apply(queueName="gpus")
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    found = next(body for body in team.children("train"))
    assert found["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert "kueue.x-k8s.io/queue-name" not in found["spec"]["template"]["metadata"]["labels"]
    # A stand-in for Kueue: it suspends the Job until there is room.
    team.plane.kubectl("patch", "job", job, "-n", team.namespace, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    said = team.until("waits", lambda said: "the queue has not admitted it" in condition(said, "Admitted")["message"])
    assert condition(said["status"], "Admitted")["reason"] == "Queued"
    team.plane.kubectl("patch", "job", job, "-n", team.namespace, "--type=merge", "-p", '{"spec":{"suspend":false}}')
    fates.end(team, job, fates.sealed())
    team.until("ready", lambda said: said["phase"] == "Ready")


def test_history_lets_the_oldest_losers_go_and_nothing_else(team: Team) -> None:
    team.apply(output={"historyLimit": 1})
    trained(team)
    for run in (2, 3):
        team.apply(output={"historyLimit": 1}, training={"epochs": run + 3})
        fates.end(team, fates.child(team, "prepare", run), fates.prepared())
        fates.end(team, fates.child(team, "train", run), fates.sealed(f"v{run}", "Reject", str(run) * 64))
    discard = fates.child(team, "discard")
    assert discard.endswith("-discard-v2")
    body = next(one for one in team.children("discard"))
    words = body["spec"]["template"]["spec"]["containers"][0]["command"]
    assert words[-4:] == ["--version", "v2", "--digest", f"sha256:{'2' * 64}"]
    fates.end(team, discard, {"outcome": "Discarded"})
    said = team.until("gone", lambda said: [one["version"] for one in said["versions"]] == ["v1", "v3"])["status"]
    assert said["promotedVersion"] == "v1"


def test_nothing_of_a_tenants_metadata_reaches_its_children(team: Team) -> None:
    body = {
        "apiVersion": "topcoat.dev/v1alpha1", "kind": "FineTuneJob",
        "metadata": {"name": "claims", "namespace": team.namespace,
                     "labels": {"app.kubernetes.io/instance": "argo-app", "team": "x"},
                     "annotations": {"argocd.argoproj.io/tracking-id": "a:b", "note": "c"}},
        "spec": {"profile": team.profile, "baseModel": {"uri": "pvc://models/base"},
                 "dataset": {"train": {"uri": "pvc://data/x.jsonl"}}, "serving": {"mode": "None"}},
    }  # fmt: skip
    team.plane.apply_objects([body])
    trained(team)
    for child in team.children():
        text = json.dumps([child["metadata"].get("labels"), child["metadata"].get("annotations"),
                           child["spec"]["template"]["metadata"]["labels"]])  # fmt: skip
        assert "argo" not in text
        assert '"team"' not in text
