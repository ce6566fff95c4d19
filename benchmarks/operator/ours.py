"""Topcoat's operator as a subject: one process, with the rights of the chart."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from benchmarks.operator import subject
from tests.support import fates, operators
from tests.support.kube import control_plane as planes

Json = dict[str, Any]

JOBS = f"/apis/topcoat.dev/v1alpha1/namespaces/{subject.NAMESPACE}/finetunejobs"
LOOKS = re.compile(r'^topcoat_reconcile_duration_seconds_count\{kind="FineTuneJob"\} (\S+)', re.MULTILINE)
PATTERN = "job-pattern"
# What a finished job has in its manifest: no server to wait for, and its Jobs need not stay.
OLD: Json = {"serving": {"mode": "None"}, "lifecycle": {"ttlSecondsAfterFinished": 1}}


class Process:
    """The operator's process."""

    def __init__(self, operator: operators.Operator) -> None:
        self._operator = operator

    @property
    def pid(self) -> int:
        return self._operator.pid

    @property
    def user(self) -> str:
        return self._operator.user

    def launch(self) -> None:
        self._operator.start_waiting()

    def stop(self) -> None:
        self._operator.stop()

    def ready(self) -> bool:
        return self._operator.ready()

    def looks(self) -> int:
        found = LOOKS.search(self._operator.get("/metrics")[1])
        return int(float(found[1])) if found else 0


class Topcoat:
    """FineTuneJobs; each becomes a Job at once."""

    name = "topcoat"
    collection = f"/apis/batch/v1/namespaces/{subject.NAMESPACE}/jobs"

    def __init__(self) -> None:
        self._pattern: Json = {}

    def install(self, plane: planes.ControlPlane) -> Process:
        plane.apply_crds()
        operators.make_profile(plane, "default")
        operator = operators.Operator(plane, [])
        operator.install()
        return Process(operator)

    def job(self, number: int) -> tuple[str, Json]:
        return JOBS, _job(f"job-{number:07d}")

    def old_job(self, number: int) -> tuple[str, Json]:
        return JOBS, _job(f"job-{number:07d}", **OLD)

    def learn(self, plane: planes.ControlPlane, controller: subject.Controller) -> None:
        """One job lives its whole life; its pods end as a test says. Its Jobs go, as its manifest asks."""
        del controller
        team = operators.Team(plane, subject.NAMESPACE, "default")
        plane.apply_objects([_job(PATTERN, **OLD)])
        fates.end(team, fates.child(team, "prepare"), fates.prepared())
        train = fates.child(team, "train")
        fates.run(team, train)
        team.until("training", lambda said: said["phase"] == "Training", PATTERN)
        fates.end(team, train, fates.sealed())
        team.until("the end", lambda said: said["phase"] == "Ready", PATTERN)
        deadline = time.monotonic() + 60
        while team.children():
            if time.monotonic() > deadline:
                raise RuntimeError("the Jobs of a finished job do not go")
            time.sleep(0.2)
        time.sleep(2)
        self._pattern = team.job(PATTERN)

    def finished(self, made: Json) -> Json:
        """The pattern's status under this job's own name and UID."""
        text = json.dumps(self._pattern["status"])
        for before, after in zip(_marks(self._pattern), _marks(made), strict=True):
            text = text.replace(before, after)
        found: Json = json.loads(text)
        return found


def _marks(body: Json) -> tuple[str, str]:
    """What of a job is in its status: the beginning of its UID, its name."""
    return body["metadata"]["uid"][:8], body["metadata"]["name"]


def _job(name: str, **spec: Any) -> Json:
    return {
        "apiVersion": "topcoat.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": subject.NAMESPACE},
        "spec": {
            "baseModel": {"uri": "pvc://models/base"},
            "dataset": {"train": {"uri": "pvc://data/train.jsonl"}},
            **spec,
        },
    }
