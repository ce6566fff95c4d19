"""The shape of all our pods: restricted, without an API token, nothing writable but /tmp and its volumes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from topcoat.api import lifecycle, profile
from topcoat.manifests import metadata

Json = dict[str, Any]

USER = 65532
RUN_FOLDER = "/etc/topcoat/run"
RUN_FILE = f"{RUN_FOLDER}/run.json"
JOB_FOLDER = "/topcoat/job"
CACHE_FOLDER = "/topcoat/cache"
VOLUMES_FOLDER = "/topcoat/volumes"
CLAIMS_FOLDER = "/topcoat/claims"
TOKEN_FOLDER = "/var/run/secrets/topcoat"  # noqa: S105 - a folder
LAST_WORD = "/dev/termination-log"
# What a pod asks for where neither the job nor the profile says so: every container asks for something.
LEAST = {"cpu": "500m", "memory": "1Gi"}


@dataclass(frozen=True, slots=True)
class Platform:
    """What the installation decides about all pods."""

    image: str
    pull_policy: str = "IfNotPresent"
    pull_secrets: tuple[str, ...] = ()
    progress_url: str = ""
    progress_audience: str = "topcoat-progress"
    operator_namespace: str = "topcoat-system"


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume and where it is seen."""

    name: str
    source: Json
    path: str
    sub_path: str = ""
    read_only: bool = True

    def volume(self) -> Json:
        return {"name": self.name, **self.source}

    def mount(self) -> Json:
        made: Json = {"name": self.name, "mountPath": self.path}
        if self.sub_path:
            made["subPath"] = self.sub_path
        if self.read_only:
            made["readOnly"] = True
        return made


@dataclass(frozen=True, slots=True)
class Container:
    """What a container of a pod does."""

    name: str
    image: str
    command: list[str]
    resources: Json
    env: list[Json] = field(default_factory=list)
    mounts: tuple[Mount, ...] = ()
    more: Json = field(default_factory=dict)
    """Ports, probes and the like."""


def claim(name: str, claim_name: str, path: str, *, sub_path: str = "", read_only: bool = True) -> Mount:
    source: Json = {"persistentVolumeClaim": {"claimName": claim_name}}
    return Mount(name, source, path, sub_path, read_only)


def environment(shape: profile.PodShape, *, offline: bool) -> list[Json]:
    """Variables of every trainer and server pod. The platform team's own come first, so that ours hold."""
    own = {"HOME": "/tmp", "TMPDIR": "/tmp", "HF_HUB_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}  # noqa: S108 - an emptyDir
    if offline:
        own |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    given = [{"name": variable.name, "value": variable.value} for variable in shape.env if variable.name not in own]
    pod_uid = {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}
    return [*given, *({"name": name, "value": value} for name, value in own.items()), pod_uid]


def progress_environment(platform: Platform) -> list[Json]:
    """Where and as whom a trainer reports, in the variables of Kubeflow's protocol."""
    return [
        {"name": "KUBEFLOW_TRAINER_SERVER_URL", "value": platform.progress_url},
        {"name": "KUBEFLOW_TRAINER_SERVER_TOKEN", "value": f"{TOKEN_FOLDER}/token"},
    ]


def progress_token(platform: Platform) -> Mount:
    """A token that says which pod speaks, good for nothing but reporting progress."""
    token = {"audience": platform.progress_audience, "expirationSeconds": 3600, "path": "token"}
    return Mount("progress-token", {"projected": {"sources": [{"serviceAccountToken": token}]}}, TOKEN_FOLDER)


def run_file(annotation: str = metadata.RUN_FILE) -> Mount:
    """The run file, from the pod's own annotation: so the Job is the only object to write."""
    field_ref = {"fieldPath": f"metadata.annotations['{annotation}']"}
    return Mount("run-file", {"downwardAPI": {"items": [{"path": "run.json", "fieldRef": field_ref}]}}, RUN_FOLDER)


def resources(asked: lifecycle.Resources, usual: lifecycle.Resources) -> Json:
    """Requests and limits: what the job says, else the profile, else the least."""
    requests = {**usual.requests, **asked.requests}
    limits = {**usual.limits, **asked.limits}
    for name, least in LEAST.items():
        if name not in requests and name not in limits:
            requests[name] = least
    return {"requests": requests, "limits": limits} if limits else {"requests": requests}


def spec(
    platform: Platform, shape: profile.PodShape, container: Container, more: Json, beside: tuple[Container, ...] = ()
) -> Json:
    """A pod's spec. `more` has what is particular: restart policy, grace and the like. `beside`: further containers."""
    # Each has a /tmp of its own.
    each = [
        (one, (*one.mounts, Mount(name, {"emptyDir": {}}, "/tmp", read_only=False)))  # noqa: S108 - an emptyDir
        for one, name in [(container, "tmp"), *((other, f"tmp-{other.name}") for other in beside)]
    ]
    made: Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(platform, one, mounts) for one, mounts in each],
        "volumes": _volumes(tuple(mount for _, mounts in each for mount in mounts)),
        **more,
    }
    optional: Json = {
        "imagePullSecrets": [{"name": name} for name in platform.pull_secrets],
        "nodeSelector": dict(shape.node_selector),
        "tolerations": [toleration.as_json() for toleration in shape.tolerations],
        "runtimeClassName": shape.runtime_class_name,
        "priorityClassName": shape.priority_class_name,
    }
    return made | {name: value for name, value in optional.items() if value}


def _container(platform: Platform, container: Container, mounts: tuple[Mount, ...]) -> Json:
    return {
        "name": container.name,
        "image": container.image,
        "imagePullPolicy": platform.pull_policy,
        "command": container.command,
        "workingDir": "/tmp",  # noqa: S108 - an emptyDir
        "env": container.env,
        "resources": container.resources,
        "volumeMounts": [mount.mount() for mount in mounts],
        # A log's end may quote a row; the last word never does.
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        **container.more,
    }


def _volumes(mounts: tuple[Mount, ...]) -> list[Json]:
    """Each volume once, however many places it is seen at."""
    return list({mount.name: mount.volume() for mount in mounts}.values())


def compact(body: Json) -> str:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False)
