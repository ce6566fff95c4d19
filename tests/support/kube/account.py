"""Who may talk to a test's API server: tokens and kubeconfig files. Service accounts get theirs from the server."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ADMIN = "admin"
MASTERS = "system:masters"
# The control plane's own programs have names of their own, so that the audit log tells who asked.
PROGRAMS: Mapping[str, Sequence[str]] = {
    "system:kube-controller-manager": (MASTERS,),
    "system:kube-scheduler": (MASTERS,),
    "system:kube-proxy": (),
    "system:coredns": (MASTERS,),
    "storage": (MASTERS,),
}
# People without any right; a test binds roles to them. `trainer-manager` is for a peer in benchmarks.
PEOPLE: Mapping[str, Sequence[str]] = {"ann": ("tenants",), "ben": ("tenants",), "eve": (), "trainer-manager": ()}


@dataclass(frozen=True)
class Server:
    """Where the API server answers, and the file of the authority that signed its certificate."""

    url: str
    authority: Path


def token(user: str) -> str:
    """The server listens on this machine only and lives for one test run, so a known word will do."""
    return f"token-of-{user.replace(':', '-')}"


def write_tokens(path: Path, users: Mapping[str, Sequence[str]]) -> None:
    rows = [f'{token(user)},{user},{user},"{",".join(groups)}"' for user, groups in users.items()]
    path.write_text("\n".join(rows) + "\n")
    path.chmod(0o600)


def write_kubeconfig(path: Path, server: Server, secret: str, namespace: str = "default") -> Path:
    """A kubeconfig that needs no other file (JSON is YAML)."""
    authority = base64.b64encode(server.authority.read_bytes()).decode()
    name = "topcoat-test"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server.url, "certificate-authority-data": authority}}],
        "users": [{"name": name, "user": {"token": secret}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": namespace}}],
        "current-context": name,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path
