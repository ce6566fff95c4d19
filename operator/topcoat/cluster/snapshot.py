"""Profiles as they were when a run started: kept in a ConfigMap under their digest, believed only if it still fits."""

from __future__ import annotations

import hashlib
import json

import pydantic

from topcoat.api import finetunejob, profile
from topcoat.cluster import client, memory
from topcoat.manifests import configmap, pod


def digest(found: profile.FineTuneProfile) -> str:
    """Names one state of a profile."""
    text = pod.compact({"name": found.metadata.name, "spec": found.spec.as_json()})
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def name(found: str) -> str:
    return f"topcoat-profile-{found}"


async def keep(api: client.Client, known: memory.Memory, namespace: str, found: profile.FineTuneProfile) -> None:
    """Writes the snapshot, once per namespace and state of the profile; many jobs share it."""
    key = digest(found)
    if (namespace, key) in known.snapshots:
        return
    await api.create_unless_there(configmap.profile_snapshot(name(key), namespace, found))
    known.snapshots[namespace, key] = found


async def recall(api: client.Client, known: memory.Memory, job: finetunejob.FineTuneJob) -> None:
    """Reads the snapshot of a run that is going on, where today's profile is another one. A tenant may have made the
    ConfigMap anew: what does not fit the digest that status holds is not used.
    """
    run = job.status.run if job.status else None
    if run is None or run.completion_time or not run.profile:
        return
    place = (job.metadata.namespace, run.profile.partition("@")[2])
    if place in known.snapshots or known.digests.get(job.spec.profile) == place[1]:
        return
    body = await api.get_or_none("ConfigMap", place[0], name(place[1]))
    try:
        found = profile.FineTuneProfile.model_validate(json.loads((body or {})["data"]["profile.json"]))
    except (KeyError, ValueError, pydantic.ValidationError):
        return
    if digest(found) == place[1]:
        known.snapshots[place] = found
