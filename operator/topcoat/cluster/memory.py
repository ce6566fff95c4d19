"""What the watches brought, by key: objects of our kinds as they came, Jobs and pods as records.

Only watches and our own writes change it. It is a memory of the cluster, never a source of truth beside it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from topcoat.api import finetunejob, profile, server
from topcoat.cluster.queue import Key
from topcoat.cluster.record import JobRecord, PodRecord
from topcoat.plan import intent, observed

Json = dict[str, Any]
Name = tuple[str, str]


@dataclass(slots=True)
class ServerMemory:
    """A model server's alias files, and what its agents say."""

    aliases: dict[str, server.AliasFile] = field(default_factory=dict)
    loaded: bool = False
    """Whether the ConfigMap was read since this process began."""
    agents: dict[str, server.AgentState] = field(default_factory=dict)
    """What each agent said last, by UID of its pod."""
    applied: str = ""
    """Hash of the objects that were applied last."""
    pushed: dict[str, tuple[str, dict[str, int]]] = field(default_factory=dict)
    """By UID of the pod: to which life of its engine what was pushed, each alias with its generation."""
    ready: frozenset[str] = frozenset()
    """UIDs of the pods that were ready when its jobs were marked last."""

    def keep(self, pods: set[str]) -> None:
        """Forgets what all others said and were told."""
        for uid in (set(self.agents) | set(self.pushed)) - pods:
            self.agents.pop(uid, None)
            self.pushed.pop(uid, None)


@dataclass(slots=True)
class Unsaid:
    """A plan that was carried out and not told yet, and the object that it was made for."""

    job: finetunejob.FineTuneJob
    plan: intent.Plan


@dataclass(slots=True)
class Memory:
    """One process' memory of the cluster."""

    mark: Callable[[Key], None]
    """Asks for another look at an object."""
    jobs: dict[Name, finetunejob.FineTuneJob] = field(default_factory=dict)
    """FineTuneJobs, as the API has them."""
    servers: dict[Name, Json] = field(default_factory=dict)
    profiles: dict[str, profile.FineTuneProfile] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    """What names the present state of each profile."""
    snapshots: dict[Name, profile.FineTuneProfile] = field(default_factory=dict)
    """Profiles as they were, by namespace and digest."""
    invalid: dict[Name, tuple[Json, str]] = field(default_factory=dict)
    """FineTuneJobs that cannot be read, and why."""
    unsaid: dict[Key, Unsaid] = field(default_factory=dict)
    """Plans whose status is still to be written."""
    children: dict[str, dict[str, JobRecord]] = field(default_factory=lambda: defaultdict(dict))
    """Jobs by UID of their FineTuneJob, then by name."""
    owners: dict[Name, str] = field(default_factory=dict)
    """UID of the FineTuneJob of each Job."""
    pods: dict[Name, dict[str, PodRecord]] = field(default_factory=lambda: defaultdict(dict))
    """Pods by namespace and the name of their Job or server, then by UID."""
    uids: dict[str, Key] = field(default_factory=dict)
    """Which FineTuneJob a UID is."""
    agents: dict[Name, ServerMemory] = field(default_factory=lambda: defaultdict(ServerMemory))
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    """Namespaces that have their claims and policies, and by profile what they were made from."""
    blocked: dict[Key, observed.Waiting] = field(default_factory=dict)
    """What the API server refused."""
    versions: dict[Key, int] = field(default_factory=dict)
    """resourceVersion of our own last write of each key: its echo needs no second look."""
    stuck: dict[str, observed.Waiting] = field(default_factory=dict)
    """Why a Job has no pod, or a pod no container, as events tell; by UID."""
    asked: dict[str, float] = field(default_factory=dict)
    """When the events of a child were asked for last; by UID."""

    def put_job(self, found: JobRecord) -> bool:
        """Remembers a Job; true where something changed that decides."""
        known = self.children[found.owner_uid]
        if known.get(found.name) == found:
            return False
        known[found.name] = found
        self.owners[found.namespace, found.name] = found.owner_uid
        return True

    def drop_job(self, namespace: str, name: str) -> str:
        """Forgets a Job; returns the UID of its FineTuneJob."""
        uid = self.owners.pop((namespace, name), "")
        self.children.get(uid, {}).pop(name, None)
        if not self.children.get(uid):
            self.children.pop(uid, None)
        return uid

    def put_pod(self, found: PodRecord) -> bool:
        known = self.pods[found.namespace, found.owner]
        if known.get(found.uid) == found:
            return False
        known[found.uid] = found
        return True

    def drop_pod(self, found: PodRecord) -> None:
        known = self.pods.get((found.namespace, found.owner), {})
        known.pop(found.uid, None)
        if not known:
            self.pods.pop((found.namespace, found.owner), None)

    def pods_of(self, namespace: str, owner: str) -> list[PodRecord]:
        """Oldest first."""
        found = self.pods.get((namespace, owner), {}).values()
        return sorted(found, key=lambda pod: (pod.created_at, pod.uid))

    def children_of(self, uid: str, role: str) -> Iterator[JobRecord]:
        return (record for record in self.children.get(uid, {}).values() if record.role == role)
