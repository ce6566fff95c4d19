"""Small pods for tests of the node: a Python script under the `restricted` settings, and what became of it."""

from __future__ import annotations

import json
from typing import Any

from tests.support.kube import base_image, control_plane

# What Pod Security `restricted` asks of a pod, and of each container.
POD_SECURITY = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "fsGroup": 65532,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


def pod(name: str, script: str, image: str = base_image.TAG, **container: Any) -> dict[str, Any]:
    """A pod that runs the script once. What is given for the container is added to it."""
    main = {
        "name": "main",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-uc", script],
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
        **container,
    }
    spec = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 2,
        "securityContext": POD_SECURITY,
        "containers": [main],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def with_claim(found: dict[str, Any], claim: str, path: str) -> dict[str, Any]:
    """The same pod with a claim mounted."""
    found["spec"]["volumes"].append({"name": claim, "persistentVolumeClaim": {"claimName": claim}})
    found["spec"]["containers"][0]["volumeMounts"].append({"name": claim, "mountPath": path})
    return found


def claim(name: str, size: str = "10Mi") -> dict[str, Any]:
    spec = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": size}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


class Pods:
    """The pods of one namespace."""

    def __init__(self, plane: control_plane.ControlPlane, namespace: str) -> None:
        self.plane = plane
        self.namespace = namespace

    def create(self, *objects: dict[str, Any]) -> None:
        self.plane.apply_objects(
            [{**one, "metadata": {**one["metadata"], "namespace": self.namespace}} for one in objects]
        )

    def kubectl(self, *words: str, timeout_seconds: float = 90) -> str:
        return self.plane.kubectl("-n", self.namespace, *words, timeout_seconds=timeout_seconds)

    def status(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", "pod", name, "-o", "json"))["status"]
        return found

    def ended(self, name: str, seconds: int = 60) -> tuple[dict[str, Any], str]:
        """How the pod's container ended (exitCode, reason), and what it printed."""
        ended = "--for=jsonpath={.status.containerStatuses[0].state.terminated}"
        self.kubectl("wait", ended, f"pod/{name}", f"--timeout={seconds}s", timeout_seconds=seconds + 10)
        state: dict[str, Any] = self.status(name)["containerStatuses"][0]["state"]["terminated"]
        return state, self.kubectl("logs", name)
