"""What only a real node shows: the whole way of a company, and what becomes of it when node, claim or client fail."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import signal
import time
from collections.abc import Callable
from concurrent import futures
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import story

Json = dict[str, Any]
RUN_SECONDS = 420
CLIENTS = 4
Named = dict[str, str]
"""Version -> digest."""
Move = tuple[str, float, float]
"""Version, when it was asked for, and when the status named it."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def manifest(material: story.Material, name: str, **spec: Any) -> Json:
    """The material's manifest under another name; sections that are given take the place of its own."""
    body: Json = json.loads(json.dumps(material.manifest))
    body["metadata"]["name"] = name
    body["spec"] |= spec
    return body


def condition(said: Json, kind: str) -> Json:
    return next(found for found in said["conditions"] if found["type"] == kind)


def test_a_company_lives_its_whole_way(told: story.Story, material: story.Material) -> None:
    story.live(told, material, RUN_SECONDS)


def test_two_pods_train_one_version(told: story.Story, material: story.Material) -> None:
    story.live_on_two_nodes(told, material, RUN_SECONDS)


@pytest.mark.exhaustive  # what it serves with is tested without a node, too
def test_a_server_of_the_jobs_own_answers_only_who_shows_the_token(told: story.Story, material: story.Material) -> None:
    told.kubectl("create", "secret", "generic", "clients", "-n", told.team, "--from-literal=token=open-sesame")
    serving = {**material.manifest["spec"]["serving"], "mode": "Dedicated"}
    serving["authentication"] = {"secretRef": {"name": "clients"}}
    told.apply(manifest(material, "guarded", serving=serving))
    said = told.until("guarded", "v1 serves", lambda said: said["servedVersion"] == "v1", RUN_SECONDS)
    assert told.ask("guarded", material.question, "open-sesame")["digest"] == story.digest_of(said, "v1")
    refused = told.ask("guarded", material.question, "none")
    assert refused["code"] == 401
    assert "open-sesame" not in json.dumps(refused)
    servers = json.loads(told.kubectl("get", "modelservers", "-n", told.team, "-o", "json"))["items"]
    assert [one["metadata"]["name"] for one in servers if "guarded" in one["metadata"]["name"]] != []
    assert "open-sesame" not in told.kubectl("logs", "-n", told.team, "-l", "topcoat.dev/role=server", "--tail=-1")
    told.kubectl("delete", "ftj", "guarded", "-n", told.team, "--timeout=60s", seconds=70)


@pytest.mark.exhaustive  # canaries are tested on a real API server with real servers in every run
def test_a_canary_that_never_ends_its_answers_gives_way_a_good_one_takes_over_and_pods_may_die(
    told: story.Story, material: story.Material
) -> None:
    rollout = {"type": "Canary", "steps": [{"weight": 50}], "analysis": {"minSamples": 10, "maxLatencyRatio": "20"}}
    serving = {**material.manifest["spec"]["serving"], "rollout": rollout}
    body = manifest(material, "tried", serving=serving, promotion={"policy": "Manual", "approvedVersion": "v1"})
    told.apply(body)
    first = told.until("tried", "v1 serves", lambda said: said["servedVersion"] == "v1", RUN_SECONDS)

    endless = f"pvc://{story.CLAIM}/data/endless.jsonl"
    body["spec"]["dataset"] = {**body["spec"]["dataset"], "train": {"uri": endless}}
    body["spec"]["promotion"]["approvedVersion"] = "v2"
    told.apply(body)
    told.until("tried", "v2 is tried", lambda said: said["canaryWeight"] == 50, RUN_SECONDS)
    assert told.job("tried")["status"]["servedVersion"] == "v1"
    asked = told.ask_many("tried", material.question, 60, tokens=32)
    assert (len(asked["digests"]), asked["wrong"]) == (2, {})
    said = told.until("tried", "v2 gives way", lambda said: said["rollout"]["state"] == "RolledBack", 30)
    assert "repeat themselves" in said["rollout"]["message"]
    said = told.until("tried", "v1 answers all", lambda said: said["phase"] == "Ready", 30)
    assert said["promotedVersion"] == "v1"
    asked = told.ask_many("tried", material.question, 10, tokens=4)
    assert asked == {"digests": {story.digest_of(first, "v1"): 10}, "wrong": {}}

    body["spec"]["dataset"] = material.manifest["spec"]["dataset"]
    body["spec"]["training"] = {**body["spec"]["training"], "epochs": 3}
    body["spec"]["promotion"]["approvedVersion"] = "v3"
    told.apply(body)
    told.until("tried", "v3 is tried", lambda said: said["canaryWeight"] == 50, RUN_SECONDS)
    assert told.ask_many("tried", material.question, 60, tokens=4)["wrong"] == {}
    said = told.until("tried", "v3 answers all", lambda said: said["servedVersion"] == "v3", 30)
    said = told.until("tried", "all is done", lambda said: said["phase"] == "Ready", 30)
    assert (said["rollout"]["state"], said["promotedVersion"]) == ("Done", "v3")

    body["spec"]["serving"]["replicas"] = 2
    told.apply(body)
    told.until("tried", "two pods answer", lambda _: len(ready(told)) == 2, 120)
    digests = {"v1": story.digest_of(first, "v1"), "v3": story.digest_of(said, "v3")}
    changes_under_load(told, material, body, digests)
    told.kubectl("delete", "ftj", "tried", "-n", told.team, "--timeout=60s", seconds=70)


def test_a_claim_that_never_binds_needs_a_person(told: story.Story, material: story.Material) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "unbound", "namespace": told.team},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "nowhere",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    told.cluster.apply_objects([claim])
    told.apply(manifest(material, "unbound", dataset={"train": {"uri": "pvc://unbound/train.jsonl"}}))
    said = told.until("unbound", "a person is asked", lambda said: condition(said, "Stalled")["status"] == "True", 150)
    assert condition(said, "Stalled")["reason"] == "VolumeUnbound"
    assert said["failure"]["category"] == "Infrastructure"
    assert "kubectl describe pvc" in said["failure"]["hint"]
    told.kubectl("delete", "ftj", "unbound", "-n", told.team, "--timeout=60s", seconds=70)


def test_a_drained_pod_goes_on_where_it_was_and_no_attempt_is_counted(
    told: story.Story, material: story.Material
) -> None:
    told.apply(manifest(material, "drained", serving={"mode": "None"}))
    told.until("drained", "it trains", lambda said: said["phase"] == "Training", RUN_SECONDS)
    first = running(told, "drained")
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": first, "namespace": told.team},
    }
    path = f"/api/v1/namespaces/{told.team}/pods/{first}/eviction"
    told.cluster.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(body))
    said = told.until("drained", "sealed", lambda said: said["versions"][0]["version"] == "v1", RUN_SECONDS)
    assert said["run"]["attempt"] == 1
    told.kubectl("delete", "ftj", "drained", "-n", told.team, "--timeout=60s", seconds=70)


def test_a_node_that_is_gone_for_a_while_costs_no_version_and_makes_none_twice(
    told: story.Story, material: story.Material
) -> None:
    """Its containers run on, nobody hears of them, and the control plane gives their pods up."""
    told.apply(manifest(material, "orphaned", serving={"mode": "None"}))
    told.until("orphaned", "it trains", lambda said: said["phase"] == "Training", RUN_SECONDS)
    first, node = running(told, "orphaned"), told.cluster.node.name
    told.cluster.programs["kubelet"].stop()
    try:
        told.kubectl("wait", f"node/{node}", "--for=condition=Ready=Unknown", "--timeout=120s", seconds=130)
        told.kubectl("taint", "node", node, "node.kubernetes.io/out-of-service=gone:NoExecute")
        told.kubectl("wait", f"pod/{first}", "-n", told.team, "--for=delete", "--timeout=120s", seconds=130)
    finally:
        told.cluster.programs["kubelet"].start()
        told.kubectl("wait", f"node/{node}", "--for=condition=Ready", "--timeout=120s", seconds=130)
        told.kubectl("taint", "node", node, "node.kubernetes.io/out-of-service-")
    said = told.until("orphaned", "sealed", lambda said: said["versions"][0]["version"] == "v1", RUN_SECONDS)
    assert [entry["version"] for entry in said["versions"]] == ["v1"]
    assert said["run"]["attempt"] == 1
    told.kubectl("delete", "ftj", "orphaned", "-n", told.team, "--timeout=60s", seconds=70)


def changes_under_load(told: story.Story, material: story.Material, body: Json, digests: Named) -> None:
    """v1 and v3 in turn; meanwhile a pod is deleted, and a container dies at once. No client tries again."""
    stop = told.cluster.owned.path / "enough"
    with futures.ThreadPoolExecutor(CLIENTS) as people:
        asked_by = [people.submit(told.ask_until, stop, "tried", material.question, 4) for _ in range(CLIENTS)]
        try:
            moves, (died, healed) = changes(told, body, partial(all_heard, told, stop))
        finally:
            stop.touch()
        answers = [answer for asking in asked_by for answer in asking.result()]
    wrong = [answer for answer in answers if "error" in answer]
    told.say(f"            {len(answers)} requests, {len(moves)} moves, {len(wrong)} failed")
    assert [one for one in wrong if one["received"] < died or one["sent"] > healed] == [], (wrong, moves, died, healed)
    assert {one["error"] for one in wrong} <= {"APIConnectionError"}, wrong
    versions = {digest: version for version, digest in digests.items()}
    heard = [(versions[one["digest"]], one["sent"], one["received"]) for one in answers if "error" not in one]
    assert [one for one in heard if one[0] not in named(moves, one[1], one[2])] == []
    for (_, _, had), (_, asked, _) in itertools.pairwise(moves):
        assert any(had < sent and received < asked for _, sent, received in heard), (had, asked, moves)
    assert told.ask_many("tried", material.question, 20, tokens=4) == {"digests": {digests["v3"]: 20}, "wrong": {}}


def all_heard(told: story.Story, stop: Path, since: float) -> None:
    """Returns when every client has an answer to a question that it asked after that time."""

    def heard(_: Json) -> bool:
        return [path.stat().st_mtime > since for path in stop.parent.glob(f"{stop.name}.*")] == [True] * CLIENTS

    told.until("tried", "every client is answered", heard, 120)


def changes(told: story.Story, body: Json, heard: Callable[[float], None]) -> tuple[list[Move], tuple[float, float]]:
    """The moves, and from when until when a killed container was away. Between two of them every client is answered."""

    def pinned(version: str) -> Move:
        asked = time.time()
        body["spec"]["serving"]["pinnedVersion"] = version
        told.apply(body)
        told.until("tried", f"{version} serves", lambda said: said["servedVersion"] == version, 120)
        had = time.time()
        heard(had)
        return version, asked, had

    heard(0)
    moves = [pinned(version) for version in ("v1", "v3", "v1")]
    told.kubectl("delete", "pod", ready(told)[0], "-n", told.team, "--wait=false")
    moves += [pinned(version) for version in ("v3", "v1", "v3")]
    told.until("tried", "two pods answer", lambda _: len(ready(told)) == 2, 120)
    moves += [pinned(version) for version in ("v1", "v3", "v1")]
    died = time.time()
    kill(told, ready(told)[0])
    time.sleep(1)
    told.until("tried", "two pods answer", lambda _: len(ready(told)) == 2, 120)
    healed = time.time()
    return moves + [pinned(version) for version in ("v3", "v1", "v3")], (died, healed)


def named(moves: list[Move], sent: float, received: float) -> set[str]:
    """What the alias may have named meanwhile. Within a move that is both, before the first what the last one set."""
    old, found = "v3", set()
    began = 0.0
    for version, asked, had in [*moves, ("", math.inf, math.inf)]:
        if began <= received and sent <= had:
            found.add(old)
        old, began = version, asked
    return found


def kill(told: story.Story, pod: str) -> None:
    """All that runs in the pod's container is gone at once, as when memory runs out; the kubelet starts it again."""
    found = json.loads(told.kubectl("get", "pod", pod, "-n", told.team, "-o", "json"))
    container = found["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    killed = 0
    for path in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):
            if container in path.read_text():
                os.kill(int(path.parent.name), signal.SIGKILL)
                killed += 1
    assert killed


def ready(told: story.Story) -> list[str]:
    """Names of the server pods that take requests and are not on their way out."""
    labels = "topcoat.dev/role=server"
    pods = json.loads(told.kubectl("get", "pods", "-n", told.team, "-l", labels, "-o", "json"))["items"]
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    told_ready = {"type": "Ready", "status": "True"}.items()
    return [
        pod["metadata"]["name"]
        for pod in staying
        if any(told_ready <= found.items() for found in pod["status"].get("conditions", ()))
    ]


def running(told: story.Story, job: str) -> str:
    """The name of the job's training pod, once its container runs."""
    deadline = time.monotonic() + 60
    while True:
        labels = f"topcoat.dev/job={job},topcoat.dev/role=train"
        pods = json.loads(told.kubectl("get", "pods", "-n", told.team, "-l", labels, "-o", "json"))["items"]
        for found in pods:
            if found["status"]["phase"] == "Running":
                return str(found["metadata"]["name"])
        assert time.monotonic() < deadline, told.everything({})
        time.sleep(0.2)
