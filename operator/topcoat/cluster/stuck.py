"""Why a Job has no pod, or a pod no container: only events tell. Asked late, rarely, and only when nothing moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime

from topcoat.api import finetunejob
from topcoat.cluster import client, clock, memory
from topcoat.cluster.record import JobRecord, PodRecord
from topcoat.plan import observed

REASONS = {
    "FailedCreate": observed.Wait.QUOTA,
    "FailedMount": observed.Wait.CONFIGURATION,
    "FailedAttachVolume": observed.Wait.VOLUME,
    "FailedCreatePodSandBox": observed.Wait.CONFIGURATION,
}
AGAIN_SECONDS = 30.0
QUEUED_JOB = "kueue.x-k8s.io%2Fjob-uid"


async def ask(
    api: client.Client, known: memory.Memory, job: finetunejob.FineTuneJob, after_seconds: float
) -> float | None:
    """Looks up the events of children that should have moved by now; says when to ask again."""
    queued = [record for record in known.children.get(job.metadata.uid, {}).values() if record.suspended]
    for record in queued:
        await _ask_queue(api, known, record)
    waits = [await _ask(api, known, found, since, after_seconds) for found, since in _unmoved(known, job)]
    return min([*waits, *(AGAIN_SECONDS for _ in queued)], default=None)


async def _ask_queue(api: client.Client, known: memory.Memory, record: JobRecord) -> None:
    """Why Kueue has not admitted a Job: its Workload's own words. Without Kueue there is nothing to ask."""
    now = asyncio.get_running_loop().time()
    if now < known.asked.get(record.uid, float("-inf")) + AGAIN_SECONDS:
        return
    known.asked[record.uid] = now
    try:
        found, _ = await api.list_all("Workload", record.namespace, f"&labelSelector={QUEUED_JOB}%3D{record.uid}")
    except client.ApiError as error:
        if error.status not in (403, 404):
            raise
        return
    said = [condition for body in found for condition in (body.get("status") or {}).get("conditions") or ()]
    reserved = next((condition for condition in said if condition["type"] == "QuotaReserved"), None)
    if reserved is not None and reserved["status"] != "True":
        text = f"{reserved.get('reason', '')}: {reserved.get('message', '')}"[:600]
        known.stuck[record.uid] = observed.Waiting(observed.Wait.QUEUE, text, record.created_at)


def _unmoved(known: memory.Memory, job: finetunejob.FineTuneJob) -> Iterator[tuple[JobRecord | PodRecord, datetime]]:
    """Jobs without a pod, and pods whose container is not made, with the time since when."""
    for record in known.children.get(job.metadata.uid, {}).values():
        if record.ended_at or record.suspended or record.deleting:
            continue
        pods = known.pods_of(record.namespace, record.name)
        if not pods and not record.started:
            yield record, record.created_at
        for pod in pods:
            if pod.creating_since:
                yield pod, pod.creating_since


async def _ask(
    api: client.Client, known: memory.Memory, found: JobRecord | PodRecord, since: datetime, after_seconds: float
) -> float:
    now = asyncio.get_running_loop().time()
    left = max(
        after_seconds - (clock.now() - since).total_seconds(),
        known.asked.get(found.uid, float("-inf")) + AGAIN_SECONDS - now,
    )
    if left > 0:
        return left + 0.5
    known.asked[found.uid] = now
    items, _ = await api.list_all("Event", found.namespace, f"&fieldSelector=involvedObject.uid%3D{found.uid}")
    told = [item for item in items if item.get("reason") in REASONS]
    newest = max(told, key=lambda item: str(item.get("lastTimestamp") or ""), default=None)
    if newest is None:
        known.stuck.pop(found.uid, None)
        return AGAIN_SECONDS
    why = REASONS[newest["reason"]]
    message = str(newest.get("message", ""))[:600]
    if why is observed.Wait.QUOTA and "quota" not in message:
        why = observed.Wait.REFUSED
    known.stuck[found.uid] = observed.Waiting(why, message, since)
    return AGAIN_SECONDS
