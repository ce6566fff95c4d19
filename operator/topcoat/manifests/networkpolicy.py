"""Who may speak to whom. Only prepare pods reach out of the cluster, and only where the profile allows it."""

from __future__ import annotations

import ipaddress
from typing import Any

from topcoat.api import names, profile, server
from topcoat.manifests import metadata

Json = dict[str, Any]

PROGRESS_PORT = 8082
NAMESPACE_NAME = "kubernetes.io/metadata.name"
OPERATOR = {"app.kubernetes.io/name": "topcoat", "app.kubernetes.io/component": "operator"}
# Link-local addresses: there clouds hand out the node's own credentials.
METADATA = ipaddress.IPv4Network("169.254.0.0/16")
DNS: Json = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}


def policies(namespace: str, operator_namespace: str, found: profile.FineTuneProfile) -> list[Json]:
    """The policies of a namespace."""
    return [
        _training(namespace, operator_namespace),
        _preparing(namespace, found),
        _server(namespace, operator_namespace),
    ]


def _operator(namespace: str) -> Json:
    return {
        "namespaceSelector": {"matchLabels": {NAMESPACE_NAME: namespace}},
        "podSelector": {"matchLabels": OPERATOR},
    }


def _policy(name: str, namespace: str, selector: Json, rules: Json) -> Json:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata.shared(name, namespace),
        "spec": {"podSelector": selector, "policyTypes": ["Ingress", "Egress"], **rules},
    }


def _role(*roles: metadata.Role) -> Json:
    values = [role.value for role in roles]
    return {"matchExpressions": [{"key": metadata.ROLE, "operator": "In", "values": values}]}


def _training(namespace: str, operator_namespace: str) -> Json:
    """Training pods: each other (several nodes), the operator's ear for progress, and names. Nothing else."""
    peers = [{"podSelector": _role(metadata.Role.TRAIN)}]
    progress = {"to": [_operator(operator_namespace)], "ports": [{"protocol": "TCP", "port": PROGRESS_PORT}]}
    roles = (metadata.Role.TRAIN, metadata.Role.INSPECT, metadata.Role.DISCARD)
    rules: Json = {"ingress": [{"from": peers}], "egress": [{"to": peers}, progress, DNS]}
    return _policy("topcoat-train", namespace, _role(*roles), rules)


def _preparing(namespace: str, found: profile.FineTuneProfile) -> Json:
    blocks = [{"ipBlock": _block(cidr)} for cidr in found.spec.network.prepare_egress]
    selector = {
        "matchLabels": {
            metadata.ROLE: metadata.Role.PREPARE.value,
            metadata.PROFILE: names.label(found.metadata.name),
        }
    }
    name = names.child_name(f"topcoat-{found.metadata.name}", "prepare")
    return _policy(name, namespace, selector, {"ingress": [], "egress": [DNS, *({"to": [block]} for block in blocks)]})


def _block(cidr: str) -> Json:
    """A block as the profile names it; one that holds the cloud's metadata service does not mean that."""
    wanted = ipaddress.ip_network(cidr, strict=False)
    inside = isinstance(wanted, ipaddress.IPv4Network) and METADATA.subnet_of(wanted) and wanted != METADATA
    return {"cidr": cidr, "except": [str(METADATA)]} if inside else {"cidr": cidr}


def _server(namespace: str, operator_namespace: str) -> Json:
    """Servers: clients of the same namespace, and the operator at the agent's port. They call nobody."""
    clients = {"from": [{"podSelector": {}}], "ports": [{"protocol": "TCP", "port": server.CLIENT_PORT}]}
    agent = {"from": [_operator(operator_namespace)], "ports": [{"protocol": "TCP", "port": server.AGENT_PORT}]}
    rules: Json = {"ingress": [clients, agent], "egress": []}
    return _policy("topcoat-server", namespace, _role(metadata.Role.SERVER), rules)
