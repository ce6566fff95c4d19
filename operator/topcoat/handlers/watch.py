"""Our own watches of Jobs and pods: list, follow, list again when the server says so. Marks the job of a change.

kopf watches our own kinds; these two come in numbers at which its bookkeeping costs more than all we do with them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Any

from topcoat.cluster import client, record
from topcoat.cluster.queue import Key
from topcoat.handlers.state import State
from topcoat.manifests import metadata

Json = dict[str, Any]

logger = logging.getLogger(__name__)

QUERY = f"&labelSelector={metadata.SELECTOR.replace('/', '%2F').replace('=', '%3D')}"
LONGEST_WAIT_SECONDS = 1.0
# A Job's first news come in threes (active, pod made, pod not scheduled yet) and decide nothing: one look does for all.
GATHER_SECONDS = 0.4


async def follow(state: State, kind: str, namespace: str) -> None:
    """Follows one kind for good."""
    name = f"{kind}/{namespace}"
    version, wait = "", 0.05
    while True:
        try:
            if not version:
                version = await _list(state, kind, namespace)
                state.synced.add(name)
            async for change, body in state.api.watch(kind, namespace, version, QUERY):
                state.heard[name] = asyncio.get_running_loop().time()
                version = body["metadata"]["resourceVersion"]
                wait = 0.05
                if change != "BOOKMARK":
                    _take(state, kind, body, gone=change == "DELETED")
            state.heard[name] = asyncio.get_running_loop().time()
        except client.Gone:
            version = ""
        except client.ApiError as error:
            if error.status in (401, 403):
                logger.error("may not watch %s: %s", kind, error.message)  # noqa: TRY400 - a missing right
            await asyncio.sleep(random.uniform(wait / 2, wait))
            wait = min(LONGEST_WAIT_SECONDS, wait * 2)


async def _list(state: State, kind: str, namespace: str) -> str:
    """Everything there is; what is remembered and not in the list is gone."""
    items, version = await state.api.list_all(kind, namespace, QUERY)
    state.heard[f"{kind}/{namespace}"] = asyncio.get_running_loop().time()
    uids = {body["metadata"]["uid"] for body in items}
    for body in items:
        _take(state, kind, body, gone=False)
    _forget_others(state, kind, namespace, uids)
    return version


def _forget_others(state: State, kind: str, namespace: str, uids: set[str]) -> None:
    known = state.known
    if kind == "Job":
        jobs = [found for children in known.children.values() for found in children.values()]
        for job in jobs:
            if job.uid not in uids and namespace in ("", job.namespace):
                _mark(state, known.drop_job(job.namespace, job.name))
        return
    pods = [found for group in known.pods.values() for found in group.values()]
    for pod in pods:
        if pod.uid not in uids and namespace in ("", pod.namespace):
            known.drop_pod(pod)
            _mark_pod(state, pod)


def _take(state: State, kind: str, body: Json, *, gone: bool) -> None:
    if kind == "Job":
        _take_job(state, body, gone=gone)
    else:
        _take_pod(state, body, gone=gone)


def _take_job(state: State, body: Json, *, gone: bool) -> None:
    found = record.job(body)
    if gone:
        state.known.stuck.pop(found.uid, None)
        _mark(state, state.known.drop_job(found.namespace, found.name))
    elif state.known.put_job(found):
        _mark(state, found.owner_uid, soon=found.ended_at is None and not found.deleting)


def _take_pod(state: State, body: Json, *, gone: bool) -> None:
    found = record.pod(body)
    if gone:
        state.known.stuck.pop(found.uid, None)
        state.known.drop_pod(found)
        _mark_pod(state, found)
    elif state.known.put_pod(found):
        _mark_pod(state, found)


def _mark_pod(state: State, pod: record.PodRecord) -> None:
    if pod.role == metadata.Role.SERVER:
        state.queue.add(Key("ModelServer", pod.namespace, pod.owner))
    else:
        _mark(state, state.known.owners.get((pod.namespace, pod.owner), ""), soon=pod.phase == "Pending")


def _mark(state: State, uid: str, *, soon: bool = False) -> None:
    """`soon`: what comes within a moment is looked at together."""
    key = state.known.uids.get(uid)
    if key is None:
        return
    # A plan that is still to be told was made before this news: its key may wait for its turn already, and would
    # tell it as if nothing had come.
    state.known.unsaid.pop(key, None)
    if soon:
        state.queue.add_soon(key, GATHER_SECONDS)
    else:
        state.queue.add(key)
