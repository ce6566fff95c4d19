"""What all jobs of a namespace share: claims and network policies. Made once, before the first Job."""

from __future__ import annotations

from topcoat.api import profile
from topcoat.cluster import client, memory
from topcoat.manifests import claim, networkpolicy, pod


async def ready(
    api: client.Client, known: memory.Memory, platform: pod.Platform, namespace: str, found: profile.FineTuneProfile
) -> None:
    """Claims where they are missing (never changed afterwards), policies as they are to be."""
    name = found.metadata.name
    made_from = pod.compact({"storage": found.spec.storage.as_json(), "network": found.spec.network.as_json()})
    made = known.namespaces.setdefault(namespace, {})
    if made.get(name) == made_from:
        return
    for body in claim.claims(namespace, found.spec.storage):
        await api.create_unless_there(body)
    for body in networkpolicy.policies(namespace, platform.operator_namespace, found):
        await api.apply(body)
    made[name] = made_from
