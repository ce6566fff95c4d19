"""What a support bundle holds and must never hold; what the doctor says of a good and of a broken cluster."""

from __future__ import annotations

import json
import socket
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import fates, operators, stores
from tests.support.cluster_cli import topcoat
from tests.support.kube import control_plane as planes
from tests.support.operators import Team
from topcoat.api import crd
from topcoat.cli import examination, redaction

Json = dict[str, Any]
CANARY = "canary-5309"


def verdicts(said: stores.Said) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for one in said.body:
        found.setdefault(one["check"], []).append(one["verdict"])
    return found


@pytest.fixture
def visible_operator(control_plane: planes.ControlPlane, operator: operators.Operator) -> Iterator[Json]:
    """A pod that stands for the operator's process, and a default profile, as an installation has them."""
    labels = {"app.kubernetes.io/name": "topcoat", "app.kubernetes.io/component": "operator"}
    port = {"name": "http", "containerPort": operator.http_port}
    env = [{"name": "TOPCOAT_IMAGE_PULL_SECRETS", "value": "pull-me"}]
    container = {"name": "operator", "image": "registry.example.com/topcoat/operator", "ports": [port], "env": env}
    meta = {"name": "topcoat-0", "namespace": operator.namespace, "labels": labels}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": [container]}}
    control_plane.apply_objects([body])
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}], "podIP": own_address()}
    words = ("--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    control_plane.kubectl("patch", "pod", "topcoat-0", "-n", operator.namespace, *words)
    operators.make_profile(control_plane, "default")
    yield body
    control_plane.kubectl("delete", "pod", "topcoat-0", "-n", operator.namespace, "--force", "--grace-period=0")
    control_plane.kubectl("delete", "finetuneprofile", "default")


def own_address() -> str:
    """An address of this machine that is not its loopback: the API server goes to no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.connect(("192.0.2.1", 9))  # no packet leaves: it only chooses an address
        return str(found.getsockname()[0])


@pytest.mark.usefixtures("visible_operator")
def test_a_good_cluster_passes_and_says_what_cannot_be_known(team: Team) -> None:
    said = topcoat(team, "doctor", "cluster", "-o", "json")
    assert said.code == 0, said.out
    found = verdicts(said)
    assert found["API server"] == found["Operator"] == found["Profile"] == found["Storage"] == found["Rights"] == ["ok"]
    assert found["Kinds"] == ["ok"] * len(crd.KINDS)
    assert found["Network"] == ["unknown"]
    assert found["Pull secrets"] == found["GPUs"] == ["mind"]
    words = topcoat(team, "doctor", "cluster").out
    assert "answers that it is ready" in words
    assert "Secret pull-me, which namespace" in words


def test_without_an_operator_the_cluster_is_blocked(team: Team) -> None:
    said = topcoat(team, "doctor", "cluster")
    assert said.code == 1
    assert "blocks   Operator" in said.out
    assert "no operator runs" in said.out
    assert said.last.startswith("Next: topcoat doctor cluster --cluster")


def test_who_may_do_nothing_is_told_what_is_missing_and_what_stays_unknown(team: Team) -> None:
    said = topcoat(team, "doctor", "cluster", "-o", "json", user="eve")
    assert said.code == 1
    found = verdicts(said)
    assert found["Rights"].count("blocks") == 1
    assert found["Operator"] == found["Profile"] == found["Storage"] == ["unknown"]
    assert any("no logs, ask, report" in one["message"] for one in said.body)


def test_an_unreachable_cluster_is_one_finding(team: Team, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(team.plane.kubeconfig.read_text().replace(team.plane.server.url, "https://127.0.0.1:9"))
    said = stores.topcoat("doctor", "cluster", "-o", "json", "--kubeconfig", path)
    assert said.code == 1
    assert [(one["check"], one["verdict"]) for one in said.body] == [("API server", "blocks")]


def test_another_version_of_the_kinds_is_told_with_a_field() -> None:
    ours = crd.custom_resource_definition(crd.KINDS[0])["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    older = json.loads(json.dumps(ours))
    del older["properties"]["spec"]["properties"]["retrain"]["properties"]["requestedAt"]
    verdict, message, hint = examination._compared("FineTuneJob", older, ours)
    assert (verdict, "spec.retrain.requestedAt" in message, "upgrade the chart" in hint) == ("mind", True, True)
    assert "newer Topcoat" in examination._compared("FineTuneJob", ours, older)[2]
    assert examination._compared("FineTuneJob", None, ours)[0] == "blocks"


def plant(team: Team) -> None:
    """The canary in everything that a bundle must not hold."""
    objects: list[Json] = [
        {"kind": "ConfigMap", "metadata": {"name": "rows"}, "data": {"train.jsonl": f'{{"text": "{CANARY}"}}'}},
        {"kind": "Secret", "metadata": {"name": "hub"}, "stringData": {"token": CANARY}},
    ]
    labels = {"app.kubernetes.io/managed-by": "topcoat"}
    container = {
        "name": "server",
        "image": "x",
        "env": [
            {"name": "KEY", "value": CANARY},
            {"name": "T", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}},
        ],
    }
    marks = {"topcoat.dev/run-file": json.dumps({"dataset": CANARY, "run": 3}), "note": CANARY}
    about = {"name": "planted", "labels": labels, "annotations": marks}
    pod = {"kind": "Pod", "metadata": about, "spec": {"containers": [container]}}
    for body in [*objects, pod]:
        body |= {"apiVersion": "v1"}
        body["metadata"]["namespace"] = team.namespace
    team.plane.kubectl("label", "namespace", team.namespace, "pod-security.kubernetes.io/enforce-")
    team.plane.apply_objects([*objects, pod])


@pytest.mark.usefixtures("visible_operator")
def test_a_bundle_has_objects_and_no_canary(team: Team, tmp_path: Path) -> None:
    plant(team)
    team.apply(dataset={"train": {"configMap": {"name": "rows", "key": "train.jsonl"}}})
    job = fates.child(team, "prepare")
    word = {**fates.prepared(), "message": "all is well"}
    word["prepared"]["dataset"]["systemPrompt"] = CANARY
    fates.end(team, job, word)
    team.until("queued", lambda said: said["phase"] == "Queued")
    target = tmp_path / "bundle.tar.gz"
    team.plane.requests.mark()
    said = topcoat(team, "support-bundle", "claims", "--out", target)
    read = {one.resource for one in team.plane.requests.requests("admin")}
    assert "pods" in read
    assert not {"secrets", "configmaps"} & read
    assert said.code == 0, said.err
    assert target.stat().st_mode & 0o777 == 0o600
    files = unpacked(target)
    names = set(files)
    for wanted in (
        "README.txt", "doctor.txt", "objects/finetunejobs/claims.yaml", f"objects/jobs/{job}.yaml",
        "objects/pods/planted.yaml", "objects/persistentvolumeclaims/topcoat-adapters.yaml",
        "objects/networkpolicies/topcoat-train.yaml", f"objects/finetuneprofiles/{team.profile}.yaml",
        "objects/operator/topcoat-0.yaml",
    ):  # fmt: skip
        assert wanted in names
    assert any(name.startswith("objects/events/claims.") for name in names)
    assert [name for name, text in files.items() if CANARY in text] == []
    body = yaml.safe_load(files["objects/pods/planted.yaml"])
    assert body["metadata"]["annotations"]["topcoat.dev/run-file"] == "<left out>; its fields: dataset, run"
    assert [one["name"] for one in body["spec"]["containers"][0]["env"]] == ["KEY", "T"]
    assert "Secrets: none was read" in files["README.txt"]


def test_what_may_not_be_read_is_said_in_the_bundle(team: Team, tmp_path: Path) -> None:
    team.apply()
    rules = ("--verb=get,list", "--resource=finetunejobs.topcoat.dev")
    team.plane.kubectl("create", "role", "looker", "-n", team.namespace, *rules)
    team.plane.kubectl("create", "rolebinding", "looker", "-n", team.namespace, "--role=looker", "--user=eve")
    target = tmp_path / "bundle.tar.gz"
    said = topcoat(team, "support-bundle", "--out", target, user="eve")
    assert said.code == 0, said.err
    assert "eve may not list pods" in said.err
    assert "eve may not list events" in unpacked(target)["README.txt"]
    assert "there already" in topcoat(team, "support-bundle", "--out", target).err


def unpacked(path: Path) -> dict[str, str]:
    found = {}
    with tarfile.open(path) as archive:
        for entry in archive.getmembers():
            file = archive.extractfile(entry)
            assert file is not None, entry.name
            found[entry.name.removeprefix("topcoat-support/")] = file.read().decode()
    return found


@pytest.mark.parametrize(
    "said",
    [
        f"Authorization: Bearer {CANARY}",
        f'{{"api_key": "{CANARY}"}}',
        f"HF_TOKEN={CANARY}",
        "hf_abcdefghijklmnop",
        f"https://user:{CANARY}@example.com/x",
        "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl",
    ],
)
def test_what_looks_like_a_credential_leaves_a_log(said: str) -> None:
    found = redaction.text(f"before {said} after")
    assert redaction.LEFT_OUT in found
    assert CANARY not in found
    assert found.startswith("before ")


def test_plain_words_stay_in_a_log() -> None:
    said = "step 10 of 100, 1,200 tokens/s, loss 1.2; rejected: token budget"
    assert redaction.text(said) == said
