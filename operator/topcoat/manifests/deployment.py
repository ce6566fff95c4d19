"""A model server's Deployment. A new pod counts as ready only when it has proved all that the aliases name."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from topcoat.api import modelserver, profile, server
from topcoat.manifests import claim, job, metadata, pod, vllm

Json = dict[str, Any]

SERVER_FOLDER = "/etc/topcoat/server"
TOKENS_FOLDER = "/etc/topcoat/tokens"
GRACE_SECONDS = 60
# Of the server in front of a vLLM: it computes nothing, but judges versions' tensors. The job's and the profile's
# resources are vLLM's.
AGENT_RESOURCES = {"requests": {"cpu": "500m", "memory": "2Gi"}}


@dataclass(frozen=True, slots=True)
class Server:
    """All that a server's objects depend on."""

    owner: metadata.Owner
    spec: modelserver.ModelServerSpec
    file: server.ServerFile
    profile: profile.FineTuneProfile
    claims: tuple[str, ...] = (claim.ADAPTERS,)
    """Claims in which versions lie."""
    tokens: tuple[tuple[str, str], ...] = ()
    """Aliases and the Secrets with their clients' tokens."""


def token_file(alias: str) -> str:
    """Where the server finds an alias' token."""
    return f"{TOKENS_FOLDER}/{alias}/token"


def deployment(platform: pod.Platform, wanted: Server) -> Json:
    """The Deployment."""
    labels = {metadata.SERVER: wanted.owner.name, metadata.ROLE: metadata.Role.SERVER.value}
    meta = {
        **metadata.shared(wanted.owner.name, wanted.owner.namespace, labels),
        "ownerReferences": wanted.owner.references(),
    }
    template = {
        "metadata": {
            "labels": {metadata.MANAGED_BY: metadata.MANAGER, **labels},
            # A changed server file is another server: the Deployment rolls.
            "annotations": {f"{metadata.SERVER}-file": _digest(wanted.file)},
        },
        "spec": _pod(platform, wanted),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": meta,
        "spec": {
            "replicas": wanted.spec.replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": template,
        },
    }


def _digest(file: server.ServerFile) -> str:
    return hashlib.sha256(pod.compact(file.as_json()).encode()).hexdigest()[:16]


def _pod(platform: pod.Platform, wanted: Server) -> Json:
    shape = wanted.profile.spec.server
    command = ["python", "-m", "topcoat_trainer.serve"]
    asked = pod.resources(wanted.spec.resources, shape.resources)
    beside: tuple[pod.Container, ...] = ()
    if wanted.file.vllm is not None:
        arguments = vllm.Shape(wanted.file, wanted.spec.cpu_adapters, vllm.gpus(asked))
        beside = (vllm.container(arguments, wanted.profile, _base_mounts(wanted), asked),)
        mounts, own = (*_mounts(wanted), vllm.versions(read_only=False)), AGENT_RESOURCES
    else:
        mounts, own = _mounts(wanted), asked
    container = pod.Container(
        name="server",
        image=wanted.profile.spec.images.server or platform.image,
        command=[*command, "--server-file", f"{SERVER_FOLDER}/{server.SERVER_FILE}", "--aliases", SERVER_FOLDER],
        resources=own,
        env=pod.environment(shape, offline=True),
        mounts=mounts,
        more={"ports": _ports(), **_probes()},
    )
    return pod.spec(platform, shape, container, {"terminationGracePeriodSeconds": GRACE_SECONDS}, beside)


def _ports() -> list[Json]:
    named = (("http", server.CLIENT_PORT), ("agent", server.AGENT_PORT))
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in named]


def _probes() -> Json:
    health = {"httpGet": {"path": "/health", "port": "agent"}}
    ready = {"httpGet": {"path": "/ready", "port": "agent"}}
    return {
        # A large base model takes minutes to load; until then the server is neither dead nor ready.
        "startupProbe": {**health, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 900},
        "livenessProbe": {**health, "periodSeconds": 20, "timeoutSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {**ready, "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 3},
    }


def _base_mounts(wanted: Server) -> tuple[pod.Mount, ...]:
    """Where the base model may lie."""
    base = job.claims_of([wanted.spec.base_model.uri])
    sources = (pod.claim(f"source-{i}", name, f"{pod.VOLUMES_FOLDER}/{name}") for i, name in enumerate(base))
    return (pod.claim("models", claim.MODELS, pod.CACHE_FOLDER), *sources)


def _mounts(wanted: Server) -> tuple[pod.Mount, ...]:
    made = [
        pod.Mount("server", {"configMap": {"name": wanted.owner.name}}, SERVER_FOLDER),
        *_base_mounts(wanted),
        *(pod.claim(f"versions-{i}", name, f"{pod.CLAIMS_FOLDER}/{name}") for i, name in enumerate(wanted.claims)),
    ]
    for place, (alias, secret) in enumerate(wanted.tokens):
        # Optional: a Secret that is missing must not keep the other aliases from being served.
        source = {"secret": {"secretName": secret, "optional": True, "items": [{"key": "token", "path": "token"}]}}
        made.append(pod.Mount(f"token-{place}", source, f"{TOKENS_FOLDER}/{alias}"))
    return tuple(made)
