"""A job's model server on a real control plane: what it is made of, and who decides how many pods it has."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tests.cluster.test_life import trained
from tests.support import fates, operators
from tests.support.operators import Team, condition

Json = dict[str, Any]


def servers(team: Team) -> list[Json]:
    found: list[Json] = team.read("apis/topcoat.dev/v1alpha1", "modelservers")["items"]
    return found


def deployments(team: Team) -> list[Json]:
    found: list[Json] = team.read("apis/apps/v1", "deployments")["items"]
    return found


def until(what: str, holds: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.1)


def replicas(found: list[Json]) -> list[int]:
    return [body["spec"]["replicas"] for body in found]


def test_the_number_of_pods_follows_the_manifest_until_somebody_else_scales(team: Team) -> None:
    team.apply(serving={"mode": "Shared", "replicas": 2})
    trained(team)
    until("two pods are wanted", lambda: replicas(servers(team)) == replicas(deployments(team)) == [2])
    team.apply(serving={"mode": "Shared", "replicas": 3})
    until("three pods are wanted", lambda: replicas(servers(team)) == replicas(deployments(team)) == [3])

    name = servers(team)[0]["metadata"]["name"]
    team.plane.kubectl("scale", "modelserver", name, "--replicas=5", "-n", team.namespace)
    until("five pods are wanted", lambda: replicas(deployments(team)) == [5])
    team.apply(serving={"mode": "Shared", "replicas": 1})
    team.until("the edit was seen", lambda said: said["observedGeneration"] == 3)
    time.sleep(2)
    assert replicas(servers(team)) == replicas(deployments(team)) == [5]


def test_a_job_that_asks_for_vllm_gets_a_server_of_its_own_kind(team: Team) -> None:
    image = "registry.example/vllm@sha256:" + "1" * 64
    operators.make_profile(team.plane, team.profile, {"images": {"vllm": image}})
    time.sleep(0.5)
    team.apply(serving={"mode": "Shared", "engine": "VLLM"})
    trained(team)
    until("its Deployment is there", lambda: bool(deployments(team)))
    assert servers(team)[0]["spec"]["engine"] == "VLLM"
    (body,) = deployments(team)
    images = {one["name"]: one["image"] for one in body["spec"]["template"]["spec"]["containers"]}
    assert images["vllm"] == image
    assert list(images) == ["server", "vllm"]
    told = next(
        json.loads(found["data"]["server.json"])
        for found in team.read("api/v1", "configmaps")["items"]
        if "server.json" in (found.get("data") or {})
    )
    assert told["vllm"]["url"].startswith("http://127.0.0.1:")
    # Without its image the server says so, and the pods that run go on.
    team.plane.kubectl(
        "patch", "finetuneprofile", team.profile, "--type=json", "-p", '[{"op":"remove","path":"/spec/images"}]'
    )
    until("the image is missed", lambda: "images.vllm" in json.dumps(servers(team)[0].get("status", {})), 45)
    assert len(deployments(team)) == 1


def aliases(team: Team) -> dict[str, tuple[str, int]]:
    """Whose each alias is, and its generation, as the pods mount them."""
    found = [
        json.loads(text)
        for body in team.read("api/v1", "configmaps")["items"]
        for key, text in body["data"].items()
        if body["metadata"]["name"] == servers(team)[0]["metadata"]["name"] and key != "server.json"
    ]
    return {file["alias"]: (file["job"], file["generation"]) for file in found}


def test_of_two_jobs_that_ask_for_one_alias_the_first_keeps_it(team: Team) -> None:
    team.apply(serving={"mode": "Shared"})
    trained(team)
    until("its alias is written", lambda: bool(servers(team)) and list(aliases(team)) == ["claims"])
    before = aliases(team)
    team.apply("zebra", serving={"mode": "Shared", "modelName": "claims"})
    fates.end(team, fates.child(team, "prepare", 2), fates.prepared())
    fates.end(team, fates.child(team, "train", 2), fates.sealed())
    said = team.until("refused", lambda said: condition(said, "Serving")["reason"] == "AliasTaken", "zebra")["status"]
    assert "belongs to job 'claims'" in condition(said, "Stalled")["message"]
    time.sleep(2)
    assert aliases(team) == before


def test_its_pods_have_the_claim_of_the_versions_from_the_start(team: Team) -> None:
    team.apply(serving={"mode": "Shared"})
    trained(team)
    until("it is deployed", lambda: bool(deployments(team)))
    (found,) = deployments(team)
    volumes = found["spec"]["template"]["spec"]["volumes"]
    assert "topcoat-adapters" in {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in volumes}
    assert found["metadata"]["generation"] == 1
