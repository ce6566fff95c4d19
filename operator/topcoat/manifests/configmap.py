"""A model server's ConfigMap: `server.json` is applied as a whole, each `<alias>.json` is a key of its own."""

from __future__ import annotations

from typing import Any

from topcoat.api import profile, server
from topcoat.manifests import metadata, pod

Json = dict[str, Any]


def configmap(owner: metadata.Owner, file: server.ServerFile) -> Json:
    """The ConfigMap with the server's own file. Keys of aliases belong to other writes and stay."""
    return {**empty(owner), "data": {server.SERVER_FILE: pod.compact(file.as_json())}}


def empty(owner: metadata.Owner) -> Json:
    """The ConfigMap before anything is known of the server."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            **metadata.shared(owner.name, owner.namespace, {metadata.SERVER: owner.name}),
            "ownerReferences": owner.references(),
        },
    }


def alias_key(alias: str) -> str:
    return f"{alias}.json"


def alias_patch(alias: str, file: server.AliasFile | None) -> Json:
    """A merge patch of one alias' key; None takes it away."""
    return {"data": {alias_key(alias): pod.compact(file.as_json()) if file else None}}


def profile_snapshot(name: str, namespace: str, found: profile.FineTuneProfile) -> Json:
    """A profile as it was when a run started; many jobs share it, and nobody may change it."""
    spec = {"metadata": {"name": found.metadata.name}, "spec": found.spec.as_json()}
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata.shared(name, namespace, {metadata.PROFILE: found.metadata.name[:63]}),
        "immutable": True,
        "data": {"profile.json": pod.compact(spec)},
    }
