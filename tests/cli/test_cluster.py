"""The command line against a real control plane with the real operator: the same words as on the local store, edits of
the spec that the operator follows, and exit codes for CI. Pods end as the tests say."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.test_life import trained
from tests.support import fates, operators, stores
from tests.support.cluster_cli import Running, manifest, topcoat
from tests.support.operators import Team, condition

Json = dict[str, Any]


def won(team: Team, name: str = "claims", **spec: Any) -> None:
    """A job whose v1 is decided upon."""
    team.apply(name, **spec)
    trained(team, name)


def test_get_status_and_names_are_as_on_the_local_store(team: Team) -> None:
    won(team)
    said = topcoat(team, "get")
    head, row, last = said.out.strip().splitlines()
    assert head.split() == ["NAME", "PHASE", "PROGRESS", "ETA", "SCORE", "VERSION", "AGE"]
    columns = team.plane.kubectl("get", "finetunejobs", "-n", team.namespace).splitlines()
    assert head.split() == columns[0].split()
    assert row.split()[:2] == ["claims", "Ready"]
    assert last == "Next: topcoat status claims --cluster"
    assert topcoat(team, "get", "-o", "name").out == "finetunejob.topcoat.dev/claims\n"
    body = topcoat(team, "get", "claims", "-o", "json").body
    assert body["status"]["promotedVersion"] == "v1"
    assert "managedFields" not in body["metadata"]
    words = topcoat(team, "status", "claims").out
    for word in ("claims  Ready", "Promote on 300", "600 rows to learn from", "Promoted"):
        assert word in words


def test_kubectl_topcoat_always_means_the_cluster(team: Team) -> None:
    team.apply()
    said = Running(team, "get", program="/usr/local/bin/kubectl-topcoat").ended()
    assert said.code == 0, said.err
    assert said.out.splitlines()[1].split()[0] == "claims"
    assert said.last == "Next: kubectl topcoat status claims"
    missing = Running(team, "status", "claim", program="kubectl-topcoat").ended()
    assert "did you mean 'claims'?" in missing.err
    assert "`kubectl topcoat get` lists the jobs there: claims" in missing.err


def test_apply_and_watch_end_with_0_when_the_candidate_wins(team: Team, tmp_path: Path) -> None:
    running = Running(team, "apply", "-f", manifest(tmp_path, team), "--watch", "--cluster")
    trained(team)
    said = running.ended()
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("finetunejob.topcoat.dev/claims created in namespace")
    assert "claims: data set and base model are being checked" in lines
    assert "Verdict  Promote on 300 held-out rows" in lines
    again = topcoat(team, "apply", "-f", tmp_path / "claims.yaml", "--watch")
    assert again.code == 0, again.err
    assert "unchanged" in again.out.splitlines()[0]


@pytest.mark.parametrize(("verdict", "code"), [("Reject", 2), ("Inconclusive", 3)])
def test_a_verdict_against_the_candidate_is_the_exit_code(team: Team, tmp_path: Path, verdict: str, code: int) -> None:
    running = Running(team, "apply", "-f", manifest(tmp_path, team), "--watch", "-o", "json", "--cluster")
    trained(team, word=fates.sealed(verdict=verdict))
    said = running.ended()
    assert said.code == code, said.err
    assert said.body["status"]["evaluation"]["verdict"] == verdict
    assert "claims: " in said.err


def test_rows_that_cannot_be_used_end_apply_with_the_reason_and_the_way_out(team: Team, tmp_path: Path) -> None:
    running = Running(team, "apply", "-f", manifest(tmp_path, team), "--watch", "--cluster")
    word = fates.failed(11, "train.jsonl:7: no completion", "add the field")
    fates.end(team, fates.child(team, "prepare"), word, code=11)
    said = running.ended()
    assert said.code == 1
    assert said.err.endswith("train.jsonl:7: no completion\nTo fix it: add the field\n")


def test_ctrl_c_ends_the_watching_with_4_and_the_job_goes_on(team: Team, tmp_path: Path) -> None:
    running = Running(team, "apply", "-f", manifest(tmp_path, team), "--watch", "--cluster")
    fates.child(team, "prepare")
    time.sleep(1)
    os.kill(running.pid, signal.SIGINT)
    said = running.ended()
    assert said.code == 4, said.err
    assert said.last.startswith("Next: topcoat watch claims --cluster")


def test_watching_survives_an_api_server_that_goes_away(
    team: Team, operator: operators.Operator, tmp_path: Path
) -> None:
    running = Running(team, "apply", "-f", manifest(tmp_path, team), "--watch", "--cluster")
    fates.child(team, "prepare")
    team.plane.restart_api_server()
    if not operator.alive:  # one that loses its Lease ends, and a kubelet would start it again
        operator.start()
    trained(team)
    assert running.ended(90).code == 0


def test_a_mistake_is_told_with_its_place_and_nothing_is_sent(team: Team, tmp_path: Path) -> None:
    path = manifest(tmp_path, team, more="  trainin: {epochs: 2}\n")
    said = topcoat(team, "apply", "-f", path)
    assert said.code == 1
    assert f"{path}:12:3: unknown field 'spec.trainin'; did you mean 'training'?" in said.err
    assert team.read("apis/topcoat.dev/v1alpha1", "finetunejobs")["items"] == []


def test_what_only_the_cluster_refuses_is_told_with_its_place_too(team: Team, tmp_path: Path) -> None:
    path = manifest(tmp_path, team)
    path.write_text(path.read_text().replace("metadata:\n", "metadata:\n  labels: {team: 'not a label!'}\n"))
    said = topcoat(team, "apply", "-f", path)
    assert said.code == 1
    assert f"{path}:4:3: metadata.labels: Invalid value" in said.err


def test_a_field_that_somebody_else_keeps_is_not_taken_without_a_word(team: Team, tmp_path: Path) -> None:
    team.apply(training={"epochs": 5})
    path = manifest(tmp_path, team, more="  training:\n    epochs: 2\n")
    said = topcoat(team, "apply", "-f", path)
    assert said.code == 1
    assert f"{path}:13:5: spec.training.epochs was set to another value by 'kubectl'" in said.err
    assert topcoat(team, "apply", "-f", path, "--force-conflicts").code == 0
    assert team.job()["spec"]["training"]["epochs"] == 2


def test_a_dry_run_lists_what_would_be_made_and_makes_nothing(team: Team, tmp_path: Path) -> None:
    said = topcoat(team, "apply", "-f", manifest(tmp_path, team, more="  trainer: {nodes: 2}\n"), "--dry-run")
    assert said.code == 0, said.err
    rows = [line.split() for line in said.out.splitlines()]
    for row in (
        ["PersistentVolumeClaim", "topcoat-adapters", "new"],
        ["NetworkPolicy", "topcoat-train", "new"],
        ["Job", "claims-r1-a1", "if", "needed"],
    ):
        assert any(line[: len(row)] == row for line in rows), said.out
    assert "2 pods" in said.out
    assert "answers as claims" in said.out
    assert "Memory, disk and time  unknown until the prepare pod has read data and model" in said.out
    assert team.read("apis/topcoat.dev/v1alpha1", "finetunejobs")["items"] == []


def test_a_dry_run_says_what_the_profile_forbids(team: Team, tmp_path: Path) -> None:
    path = manifest(tmp_path, team)
    path.write_text(path.read_text().replace("pvc://models/base", "https://example.com/x"))
    assert topcoat(team, "apply", "-f", path, "--dry-run").code == 1
    path = manifest(tmp_path, team)
    path.write_text(path.read_text().replace(team.profile, "gone"))
    assert "there is no FineTuneProfile 'gone'" in topcoat(team, "apply", "-f", path, "--dry-run").err


def test_an_approval_is_an_edit_of_the_spec_that_the_operator_follows(team: Team) -> None:
    won(team, promotion={"policy": "Manual"})
    team.until("waiting", lambda said: said["phase"] == "AwaitingApproval")
    said = topcoat(team, "promote", "claims")
    assert said.code == 0, said.err
    assert "  spec:\n    promotion:\n      approvedVersion: v1\n" in said.out
    assert team.job()["spec"]["promotion"]["approvedVersion"] == "v1"
    team.until("promoted", lambda said: said["promotedVersion"] == "v1")
    assert "approvedVersion of claims is v1 already" in topcoat(team, "promote", "claims", "v1").out


def served(team: Team) -> None:
    """v2 is promoted after v1, with a server wanted."""
    body = team.job()
    versions = [
        {
            "version": name,
            "digest": f"sha256:{'a' * 64}",
            "state": state,
            "path": f"pvc://topcoat-adapters/x/versions/{name}",
        }
        for name, state in (("v1", "Previous"), ("v2", "Promoted"))
    ]
    status = {**body["status"], "versions": versions, "promotedVersion": "v2", "previousVersion": "v1"}
    patch = json.dumps({"status": status})
    words = ("--subresource=status", "--type=merge", "-p", patch)
    team.plane.kubectl("patch", "finetunejob", "claims", "-n", team.namespace, *words)


def test_a_roll_back_is_a_pin_and_unpin_takes_it_away(new_team: Team) -> None:
    team = new_team
    served(team)
    said = topcoat(team, "rollback", "claims")
    assert said.code == 0, said.err
    assert "  spec:\n    serving:\n      pinnedVersion: v1\n" in said.out
    assert said.last == "Next: topcoat rollback claims --unpin --cluster   takes it back"
    assert team.job()["spec"]["serving"]["pinnedVersion"] == "v1"
    assert "already" in topcoat(team, "rollback", "claims").out
    assert topcoat(team, "rollback", "claims", "--unpin").code == 0
    assert "pinnedVersion" not in team.job()["spec"]["serving"]
    assert topcoat(team, "promote", "claims", "v1").code == 0
    assert team.job()["spec"]["serving"]["pinnedVersion"] == "v1"


def test_a_version_that_is_not_there_is_not_promoted(new_team: Team) -> None:
    served(new_team)
    said = topcoat(new_team, "promote", "claims", "v9")
    assert said.err == "Error: 'claims' has no version 'v9'\nTo fix it: its versions: v1, v2\n"


def test_who_keeps_the_object_from_git_is_named(new_team: Team) -> None:
    served(new_team)
    mark = "argocd.argoproj.io/tracking-id=x:y"
    new_team.plane.kubectl("annotate", "finetunejob", "claims", "-n", new_team.namespace, mark)
    said = topcoat(new_team, "rollback", "claims")
    assert said.code == 0
    assert "Warning: Argo CD keeps claims as Git has it" in said.err
    assert "Flux" not in said.err


def test_a_hand_set_pin_is_told_when_a_manifest_without_it_is_applied(new_team: Team, tmp_path: Path) -> None:
    served(new_team)
    assert topcoat(new_team, "rollback", "claims").code == 0
    said = topcoat(new_team, "apply", "-f", manifest(tmp_path, new_team, more="  suspend: true\n"))
    assert said.code == 0, said.err
    assert "serving.pinnedVersion v1 was set by hand and stays" in said.err
    path = manifest(tmp_path, new_team, more="  suspend: true\n  serving:\n    pinnedVersion: v2\n")
    assert topcoat(new_team, "apply", "-f", path).code == 0  # our own edit gives way to the manifest
    assert new_team.job()["spec"]["serving"]["pinnedVersion"] == "v2"


@pytest.fixture
def new_team(team: Team) -> Team:
    """A suspended job that the operator has seen, so that it starts nothing."""
    team.apply(suspend=True, serving={"mode": "Shared"})
    team.until("suspended", lambda said: said["phase"] == "Suspended")
    return team


def test_retrain_asks_for_one_run_more(team: Team) -> None:
    won(team)
    said = topcoat(team, "retrain", "claims")
    assert said.code == 0, said.err
    assert "retrain:\n      requestedAt: " in said.out
    fates.end(team, fates.child(team, "prepare", 2), fates.prepared())
    assert fates.child(team, "train", 2).endswith("-r2-a1")


def test_suspend_and_resume_stop_a_run_and_let_it_go_on(team: Team) -> None:
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    fates.run(team, fates.child(team, "train"))
    team.until("training", lambda said: said["phase"] == "Training")
    said = topcoat(team, "suspend", "claims")
    assert said.code == 0, said.err
    assert "  spec:\n    suspend: true\n" in said.out
    assert said.last == "Next: topcoat resume claims --cluster   goes on from the checkpoint"
    team.until("suspended", lambda said: said["phase"] == "Suspended")
    assert topcoat(team, "resume", "claims").code == 0
    team.until("going on", lambda said: said["phase"] != "Suspended")
    assert condition(team.job()["status"], "Stalled")["status"] == "False"


def test_logs_of_a_job_without_a_pod_say_what_it_waits_for(new_team: Team) -> None:
    said = topcoat(new_team, "logs", "claims", "--role", "train")
    assert said.code == 1
    assert "'claims' has no train pod: " in said.err
    assert "topcoat status claims" in said.err


def test_logs_of_a_pod_that_has_none_yet_say_so(team: Team) -> None:
    team.apply()
    fates.pod_of(team, fates.child(team, "prepare"))
    said = topcoat(team, "logs", "claims")
    assert said.code == 1
    assert "has no log: " in said.err


def test_asking_before_anything_serves_says_how_far_it_is(team: Team) -> None:
    won(team)
    said = topcoat(team, "ask", "claims", "hail")
    assert said.code == 1
    assert "no model server answers for 'claims' yet" in said.err


def test_without_a_pod_to_read_the_volume_the_report_is_what_status_has(team: Team) -> None:
    won(team)
    said = topcoat(team, "report", "claims")
    assert said.code == 0, said.err
    assert "claims v1  Promote, now Promoted" in said.out
    assert "Accuracy: base 0.3900, candidate 0.8200, 300 held-out rows" in said.out
    assert "Report  pvc://topcoat-adapters/jobs/claims-" in said.out
    assert "It was not read: no model server answers" in said.err
    assert topcoat(team, "report", "claims", "-o", "json").code == 1


def test_a_missing_right_is_named(team: Team) -> None:
    team.apply()
    said = topcoat(team, "get", user="eve")
    assert said.code == 1
    assert f"eve may not list finetunejobs in namespace {team.namespace}" in said.err
    assert f"kubectl auth can-i list finetunejobs.topcoat.dev -n {team.namespace}" in said.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"server": "https://127.0.0.1:9"}, "refuses the connection"),
        ({"token": "of nobody"}, "does not accept who you are"),
        ({"authority": ""}, "certificate that your kubeconfig does not trust"),
    ],
)
def test_a_cluster_that_does_not_answer_is_told_in_plain_words(
    team: Team, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    config = json.loads(team.plane.kubeconfig.read_text())
    if "server" in change:
        config["clusters"][0]["cluster"]["server"] = change["server"]
    if "token" in change:
        config["users"][0]["user"]["token"] = change["token"]
    if "authority" in change:
        del config["clusters"][0]["cluster"]["certificate-authority-data"]
    path = tmp_path / "config"
    path.write_text(json.dumps(config))
    began = time.monotonic()
    said = stores.topcoat("get", "--kubeconfig", path)
    assert said.code == 1
    assert words in said.err
    assert len(said.err.splitlines()) == 2
    assert time.monotonic() - began < 10


def test_contexts_and_files_that_are_not_there_are_named(tmp_path: Path, team: Team) -> None:
    said = topcoat(team, "get", "--context", "prod")
    assert "the kubeconfig has no context 'prod'" in said.err
    assert "it has: topcoat-test" in said.err
    said = stores.topcoat("get", "--kubeconfig", tmp_path / "none")
    assert "there is no kubeconfig" in said.err


def test_another_namespace_is_named_by_n_and_repeated_in_the_next_command(team: Team) -> None:
    team.apply()
    kubeconfig = team.plane.kubeconfig
    said = stores.topcoat("get", "-n", team.namespace, KUBECONFIG=str(kubeconfig))
    assert said.last == f"Next: topcoat status claims -n {team.namespace}"


def test_reading_one_job_is_one_call(team: Team) -> None:
    team.apply()
    team.plane.requests.mark()
    topcoat(team, "status", "claims")
    made = [one for one in team.plane.requests.requests("admin") if one.resource != "tokenreviews"]
    assert [(one.verb, one.resource) for one in made] == [("get", "finetunejobs")]
