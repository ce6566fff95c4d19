"""A bare client as a subject: it creates the Jobs itself, so this very process is measured. The floor."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.operator import subject
from tests.support import operators
from tests.support.kube import account
from tests.support.kube import control_plane as planes

Json = dict[str, Any]


class Itself:
    """Nothing to start, nothing to stop."""

    pid = os.getpid()
    user = account.ADMIN

    def launch(self) -> None:
        """It runs."""

    def stop(self) -> None:
        """It goes on."""

    def ready(self) -> bool:
        return True

    def looks(self) -> int:
        return 0


class Bare:
    """Jobs, and nobody between."""

    name = "bare client"
    collection = f"/apis/batch/v1/namespaces/{subject.NAMESPACE}/jobs"

    def install(self, plane: planes.ControlPlane) -> Itself:
        del plane
        return Itself()

    def job(self, number: int) -> tuple[str, Json]:
        container = {"name": "train", "image": operators.IMAGE, "command": ["true"]}
        return self.collection, {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"job-{number:07d}", "namespace": subject.NAMESPACE},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [container]}}},
        }
