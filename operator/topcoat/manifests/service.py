"""A model server's Service: where clients call. The agent's port is not in it: the operator asks each pod by itself."""

from __future__ import annotations

from typing import Any

from topcoat.api import server
from topcoat.manifests import metadata

Json = dict[str, Any]


def service(owner: metadata.Owner) -> Json:
    """The Service of a ModelServer."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            **metadata.shared(owner.name, owner.namespace, {metadata.SERVER: owner.name}),
            "ownerReferences": owner.references(),
        },
        "spec": {
            "selector": {metadata.SERVER: owner.name, metadata.ROLE: metadata.Role.SERVER.value},
            "ports": [{"name": "http", "port": server.CLIENT_PORT, "targetPort": "http", "protocol": "TCP"}],
        },
    }


def url(name: str, namespace: str) -> str:
    """Base address for OpenAI clients inside the cluster."""
    return f"http://{name}.{namespace}.svc:{server.CLIENT_PORT}/v1"
