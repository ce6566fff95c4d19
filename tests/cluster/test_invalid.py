"""The corpus of invalid manifests against the real API server: refused by the schema or by CEL, naming the field; what
only the profile or the volume can tell is accepted and becomes a condition with a category and a hint, never a pod."""

from __future__ import annotations

import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import fates, operators
from tests.support.kube import account
from tests.support.kube import control_plane as planes
from tests.support.operators import Team, condition

Json = dict[str, Any]
FOLDER = Path(__file__).parents[1] / "api" / "invalid"
FILES = sorted(FOLDER.glob("*.yaml"))


def read(path: Path) -> tuple[str, str, str, Any]:
    """Who must speak, about which field, with which words, and the manifest."""
    text = path.read_text(encoding="utf-8")
    by, field, message = (line.split(": ", 1)[1] for line in text.splitlines()[:3])
    return by, field, message, yaml.safe_load(text)


def post(plane: planes.ControlPlane, namespace: str, body: Any) -> tuple[int, str]:
    """As kubectl sends it: strict."""
    path = f"/apis/topcoat.dev/v1alpha1/namespaces/{namespace}/finetunejobs?fieldValidation=Strict"
    headers = {"Authorization": f"Bearer {account.token(account.ADMIN)}", "Content-Type": "application/json"}
    trust = ssl.create_default_context(cafile=str(plane.server.authority))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trust))
    request = urllib.request.Request(plane.server.url + path, data=json.dumps(body).encode(), headers=headers)
    try:
        with opener.open(request, timeout=20) as answer:
            return int(answer.status), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())["message"]


def test_schema_and_cel_refuse_each_of_their_manifests_and_name_the_field(
    control_plane: planes.ControlPlane, namespace: str
) -> None:
    checked = {"schema": 0, "CEL": 0}
    wrong, same_words = [], 0
    for path in FILES:
        by, field, message, body = read(path)
        if by not in checked:
            continue
        code, said = post(control_plane, namespace, body)
        # A wrong apiVersion is told by its value.
        named = field.split("[")[0] in said or field.rsplit(".", 1)[-1] in said or field == "apiVersion"
        if code not in (400, 422) or not named:
            wrong.append((path.name, by, field, code, said[:300]))
        checked[by] += 1
        same_words += by == "CEL" and message in said
    assert wrong == []
    assert checked["schema"] >= 80
    assert checked["CEL"] >= 30
    # Rules across fields have one text for Python and CEL; the others are limits of types, which Python words itself.
    assert same_words >= 25


@pytest.mark.parametrize("name", ["catalogue-model-missing", "profile-missing"])
def test_what_the_planner_must_refuse_becomes_a_condition(team: Team, name: str) -> None:
    _, _, message, body = read(FOLDER / f"{name}.yaml")
    spec = json.loads(
        json.dumps(body["spec"]).replace("file://model", "pvc://models/base").replace("file://", "pvc://data/")
    )
    team.apply(**{"serving": {"mode": "Shared"}, **spec})
    # Not the first refusal: the operator may meet the job before the profile that was made just before it.
    said = team.until("refused", lambda said: message in condition(said, "Stalled")["message"])["status"]
    assert condition(said, "Stalled")["status"] == "True"
    assert said["failure"]["category"] == "UserInput"
    assert said["failure"]["hint"]
    assert team.children() == []


def test_a_pinned_version_that_was_never_sealed_is_named(team: Team) -> None:
    team.apply(serving={"pinnedVersion": "v9"})
    team.until("named", lambda said: condition(said, "Serving")["reason"] == "PinnedVersionMissing")
    assert "v9" in team.condition("Serving")["message"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"dataset": {"train": {"uri": "s3://bucket/x.jsonl"}}}, "s3://"),
        ({"dataset": {"train": {"uri": "file://x.jsonl"}}}, "a file of one machine"),
        ({"retrain": {"schedule": "0 0 30 2 *"}}, "retrain.schedule"),
        ({"retrain": {"schedule": "@daily", "timeZone": "Mars/Olympus"}}, "retrain.timeZone"),
        ({"serving": {"engine": "VLLM"}}, "VLLM"),
        ({"tracking": [{"type": "MLflow", "uri": "http://x"}]}, "tracking"),
        ({"trainer": {"resources": {"limits": {"nvidia.com/gpu": "9"}}}}, "maxGPUs"),
        ({"training": {"epochs": 99}}, "maxEpochs"),
        ({"method": {"type": "Full"}}, "allowedMethods"),
    ],
)
def test_what_cannot_be_done_here_is_said_before_anything_starts(team: Team, spec: Json, words: str) -> None:
    limits = {"limits": {"maxGPUs": 2, "maxEpochs": 10, "allowedMethods": ["LoRA"]}}
    operators.make_profile(team.plane, team.profile, limits)
    time.sleep(0.5)
    team.apply(**spec)
    said = team.until("refused", lambda said: condition(said, "Stalled")["status"] == "True")["status"]
    assert words in said["failure"]["message"]
    assert team.children() == []


def test_valid_then_invalid_then_valid_ends_as_if_never_invalid(team: Team) -> None:
    team.apply()
    fates.end(team, fates.child(team, "prepare"), fates.prepared())
    job = fates.child(team, "train")
    team.apply(retrain={"schedule": "0 0 30 2 *"})
    team.until("refused", lambda said: condition(said, "Stalled")["status"] == "True")
    team.apply()
    fates.end(team, job, fates.sealed())
    said = team.until("ready", lambda said: said["phase"] == "Ready")["status"]
    assert said["run"]["number"] == 1
    assert len(team.children("train")) == 1


@pytest.mark.slow
def test_an_image_that_never_comes_needs_a_person_after_a_minute(team: Team) -> None:
    team.apply()
    fates.wait(team, fates.child(team, "prepare"), "ImagePullBackOff", "Back-off pulling image")
    said = team.until("stalled", lambda said: condition(said, "Stalled")["status"] == "True", seconds=100)["status"]
    assert condition(said, "Stalled")["reason"] == "ImageUnavailable"
    assert operators.IMAGE in said["failure"]["message"]
    assert said["failure"]["category"] == "Infrastructure"
    assert said["failure"]["hint"]
