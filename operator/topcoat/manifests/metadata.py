"""Names, labels and owners of our objects. Labels and annotations of a tenant's object are never copied."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from topcoat.api import metadata, names

Json = dict[str, Any]

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "topcoat"
SELECTOR = f"{MANAGED_BY}={MANAGER}"
JOB = f"{metadata.GROUP}/job"
ROLE = f"{metadata.GROUP}/role"
RUN = f"{metadata.GROUP}/run"
ATTEMPT = f"{metadata.GROUP}/attempt"
SERVER = f"{metadata.GROUP}/server"
PROFILE = f"{metadata.GROUP}/profile"
RUN_FILE = f"{metadata.GROUP}/run-file"
KEY = f"{metadata.GROUP}/key"
VERSIONS = f"{metadata.GROUP}/versions"
TRIGGER = f"{metadata.GROUP}/trigger"
QUEUE = "kueue.x-k8s.io/queue-name"
FIELD_MANAGER = "topcoat"
PROGRESS_MANAGER = f"{FIELD_MANAGER}-progress"


class Role(StrEnum):
    """What a pod of ours is for."""

    PREPARE = "prepare"
    TRAIN = "train"
    INSPECT = "inspect"
    DISCARD = "discard"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Owner:
    """The object that a child belongs to: it goes when its owner goes."""

    kind: str
    name: str
    namespace: str
    uid: str

    def references(self) -> list[Json]:
        return [
            {
                "apiVersion": metadata.API_VERSION,
                "kind": self.kind,
                "name": self.name,
                "uid": self.uid,
                "controller": True,
                # Blocking would need a right over the owner's finalizers, and nothing waits for it.
                "blockOwnerDeletion": False,
            }
        ]


def child(owner: Owner, suffix: str, labels: dict[str, str]) -> Json:
    """Metadata of a child of a FineTuneJob."""
    return {
        "name": names.child_name(owner.name, suffix),
        "namespace": owner.namespace,
        "labels": {MANAGED_BY: MANAGER, JOB: names.label(owner.name), **labels},
        "ownerReferences": owner.references(),
    }


def shared(name: str, namespace: str, labels: dict[str, str] | None = None) -> Json:
    """Metadata of something that many jobs of a namespace share; nobody owns it."""
    return {"name": name, "namespace": namespace, "labels": {MANAGED_BY: MANAGER, **(labels or {})}}
