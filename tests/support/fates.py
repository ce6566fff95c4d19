"""Decides what becomes of pods on a control plane without a node: writes their status, as a kubelet would."""

from __future__ import annotations

import json
import time
from typing import Any

from tests.support.operators import Team

Json = dict[str, Any]
NOW = "2026-01-01T00:00:00Z"


def prepared(data: str = "d1", base: str = "b" * 64, samples: int = 600) -> Json:
    """The last word of a prepare pod that found everything in order."""
    return {
        "outcome": "Prepared",
        "prepared": {
            "baseModel": {
                "id": "org/base", "uri": "pvc://models/base", "path": "/topcoat/volumes/models/base", "revision": "r1",
                "digest": base, "configDigest": "c" * 64, "architecture": "LlamaForCausalLM", "layers": 4,
                "hiddenSize": 32, "parameters": 1000, "bytes": 4000,
            },
            "dataset": {
                "digest": data, "format": "Chat", "task": "Classification", "rows": samples + 300,
                "trainSamples": samples, "holdoutSamples": 300, "holdoutDigest": "h", "splitRule": "by content",
            },
            "trainPath": "/topcoat/volumes/data/train.jsonl",
            "estimate": {"memoryBytes": 1 << 30, "durationSeconds": 60.0, "trainedParameters": 10,
                         "totalParameters": 1000},
            "seconds": 0.1,
        },
    }  # fmt: skip


def sealed(version: str = "v1", verdict: str = "Promote", digest: str = "a" * 64) -> Json:
    """The last word of a trainer that sealed a version."""
    return {
        "outcome": "Sealed",
        "version": version,
        "digest": digest,
        "evaluation": {
            "metric": "Accuracy", "base": 0.39, "candidate": 0.82, "delta": 0.43, "lowerBound": 0.38, "samples": 300,
            "verdict": verdict, "reasons": ["because"],
        },
    }  # fmt: skip


def failed(code: int, message: str = "it broke", hint: str = "mend it") -> Json:
    return {"outcome": "Failed", "exitCode": code, "message": message, "hint": hint}


def pod_of(team: Team, job: str, seconds: float = 20) -> str:
    """The undecided pod of a Job, as soon as there is one."""
    deadline = time.monotonic() + seconds
    while not (found := team.pods(job)):
        if time.monotonic() > deadline:
            raise AssertionError(
                f"{job} has no pod after {seconds} s: {[j['metadata']['name'] for j in team.children()]}"
            )
        time.sleep(0.05)
    return str(found[-1]["metadata"]["name"])


def child(team: Team, role: str, number: int = 1, seconds: float = 20) -> str:
    """Name of the n-th Job of a role, as soon as there are so many."""
    deadline = time.monotonic() + seconds
    while len(found := team.children(role)) < number:
        if time.monotonic() > deadline:
            said = json.dumps(team.read("apis/topcoat.dev/v1alpha1", "finetunejobs")["items"], indent=1)[-6000:]
            raise AssertionError(f"no {number} Jobs with role {role} after {seconds} s\n{said}")
        time.sleep(0.05)
    ordered = sorted(found, key=lambda body: (body["metadata"]["creationTimestamp"], body["metadata"]["name"]))
    return str(ordered[number - 1]["metadata"]["name"])


def run(team: Team, job: str) -> str:
    """Its pod runs."""
    pod = pod_of(team, job)
    _write(team, pod, {"phase": "Running", "conditions": [_scheduled(), _ready()], "containerStatuses": [
        _container({"running": {"startedAt": NOW}}, ready=True)]})  # fmt: skip
    return pod


def end(team: Team, job: str, word: Json | None = None, code: int = 0, because: str = "") -> None:
    """Its pod ends with this exit code and last word."""
    pod = pod_of(team, job)
    ended: Json = {"exitCode": code, "reason": because or ("Completed" if not code else "Error"), "startedAt": NOW,
                   "finishedAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}  # fmt: skip
    if word is not None:
        ended["message"] = json.dumps(word)
    phase = "Failed" if code else "Succeeded"
    status = {"phase": phase, "conditions": [_scheduled()], "containerStatuses": [_container({"terminated": ended})]}
    _write(team, pod, status)


def evict(team: Team, job: str) -> None:
    """The cluster takes its pod away."""
    pod = pod_of(team, job)
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "lastTransitionTime": NOW}
    terminated = {"terminated": {"exitCode": 143, "reason": "Error"}}
    status = {"phase": "Failed", "reason": "Evicted", "conditions": [_scheduled(), taken]}
    _write(team, pod, {**status, "containerStatuses": [_container(terminated)]})


def wait(team: Team, job: str, reason: str, message: str = "") -> None:
    """Its container does not start."""
    pod = pod_of(team, job)
    state = {"waiting": {"reason": reason, "message": message}}
    status = {"phase": "Pending", "conditions": [_scheduled()], "containerStatuses": [_container(state)]}
    _write(team, pod, status)


def _container(state: Json, *, ready: bool = False) -> Json:
    return {"name": "trainer", "image": "x", "imageID": "", "restartCount": 0, "ready": ready, "state": state}


def _scheduled() -> Json:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"type": "PodScheduled", "status": "True", "lastTransitionTime": moment}


def _ready() -> Json:
    return {"type": "Ready", "status": "True", "lastTransitionTime": NOW}


def _write(team: Team, pod: str, status: Json) -> None:
    patch = json.dumps({"status": status})
    team.plane.kubectl("patch", "pod", pod, "-n", team.namespace, "--subresource=status", "--type=merge", "-p", patch)
