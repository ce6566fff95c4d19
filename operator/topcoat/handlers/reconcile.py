"""Observe, plan, act: one look at one object. Read `look` first. Writes status once, last, and only what changed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from topcoat.api import finetunejob, metadata, status
from topcoat.cluster import client, clock, event, memory, observe, rollout, snapshot, stuck
from topcoat.cluster.queue import Key
from topcoat.handlers import measure
from topcoat.handlers.state import State
from topcoat.manifests import metadata as labels
from topcoat.plan import intent, shown
from topcoat.plan import plan as plans

Json = dict[str, Any]

logger = logging.getLogger(__name__)

STUCK_SECONDS = 10.0


async def work(state: State) -> None:
    """One worker: takes keys for good. What fails comes back after a growing wait."""
    while True:
        key = await state.queue.take()
        began = asyncio.get_running_loop().time()
        try:
            again = await look(state, key)
        except client.ApiError as error:
            state.metrics.failures.labels(key.kind).inc()
            wait = state.queue.failed(key, error.retry_after_seconds or 0.0)
            level = logging.DEBUG if error.passing else logging.ERROR
            logger.log(level, "%s: %s; again in %.1f s", "/".join(key), error, wait, extra=_about(key))
        except Exception:
            state.metrics.failures.labels(key.kind).inc()
            logger.exception("%s: a mistake of ours", "/".join(key), extra=_about(key))
            state.queue.failed(key, 5.0)
        else:
            state.queue.succeeded(key)
            if again is not None:
                state.queue.add_later(key, again)
        finally:
            state.metrics.reconcile_seconds.labels(key.kind).observe(asyncio.get_running_loop().time() - began)
            state.queue.done(key)


def _about(key: Key) -> dict[str, str]:
    return {"object": key.kind, "namespace": key.namespace, "job": key.name}


async def look(state: State, key: Key) -> float | None:
    """One look; says when to look again."""
    place = (key.namespace, key.name)
    if key.kind == "ModelServer":
        return await state.servers.step(place)
    if place in state.known.invalid:
        await _say_invalid(state, key)
        return None
    job = state.known.jobs.get(place)
    if job is None:
        await _gone(state, key)
        return None
    unsaid = state.known.unsaid.pop(key, None)
    if unsaid is not None and unsaid.job is job:
        return await _tell(state, key, job, unsaid.plan)
    return await _step(state, key, job)


async def _step(state: State, key: Key, job: finetunejob.FineTuneJob) -> float | None:
    """Observe, plan, act."""
    known = state.known
    await snapshot.recall(state.api, known, job)
    ask_again = await stuck.ask(state.api, known, job, STUCK_SECONDS)
    if ask_again is not None:
        state.queue.add_later(key, ask_again)
    fresh = job.metadata.uid not in known.children
    decided, blocked = plans.plan(job, observe.seen(known, job), clock.now()), known.blocked.get(key)
    wrote = await _act(state, job, decided)
    if known.blocked.get(key) != blocked:
        # What was to be started was refused, or no longer is: that is part of what there is to say.
        decided = plans.plan(job, observe.seen(known, job), clock.now())
    if wrote and fresh:
        # Others have no Job at all yet: they go first, the news of this one can wait.
        known.unsaid[key] = memory.Unsaid(job, decided)
        state.queue.add(key)
        return None
    return await _tell(state, key, job, decided)


async def _act(state: State, job: finetunejob.FineTuneJob, decided: intent.Plan) -> bool:
    found = observe.profile_of(state.known, job)
    if found is None:
        return False
    wrote = [await state.hands.carry_out(job, found, action) for action in decided.actions]
    return any(wrote)


async def _tell(state: State, key: Key, job: finetunejob.FineTuneJob, decided: intent.Plan) -> float | None:
    """Status once, last; progress under a manager of its own; one event a transition."""
    said = decided.status
    before = job.status or status.FineTuneJobStatus()
    if said.progress != before.progress:
        await _write(state, job, said, {"progress": _json(said.progress)}, labels.PROGRESS_MANAGER)
        job = state.known.jobs.get((key.namespace, key.name), job)
    if said.model_copy(update={"progress": None}) != before.model_copy(update={"progress": None}):
        body = said.as_json()
        body.pop("progress", None)
        await _write(state, job, said, body, labels.FIELD_MANAGER)
        measure.transition(state.metrics, before, said)
    for found in decided.events:
        await event.post(state.api, job, found)
    return decided.look_again_seconds


def _json(part: status.ProgressStatus | None) -> Json | None:
    return part.as_json() if part else None


async def _write(
    state: State, job: finetunejob.FineTuneJob, said: status.FineTuneJobStatus, body: Json, manager: str
) -> None:
    meta = job.metadata
    key = Key("FineTuneJob", meta.namespace, meta.name)
    made = await state.api.apply_status(
        {
            "apiVersion": metadata.API_VERSION,
            "kind": key.kind,
            # The UID: of an object that was made anew meanwhile, this status is not.
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "status": {name: value for name, value in body.items() if value is not None},
        },
        manager,
    )
    version = int(made["metadata"]["resourceVersion"])
    place = (meta.namespace, meta.name)
    newest = state.known.jobs.get(place)
    # An edit that came between is in the answer, but not in what we know: its own event must be heard.
    edited = made["metadata"].get("generation", 0) != meta.generation
    if newest is job and not edited and version > state.known.versions.get(key, -1):
        state.known.versions[key] = version
        state.known.jobs[place] = job.model_copy(update={"status": said})


async def _gone(state: State, key: Key) -> None:
    """A job that is no more: its children go with it by themselves; its aliases do not."""
    known = state.known
    for group in (known.blocked, known.unsaid):
        group.pop(key, None)
    for place, memo in list(known.agents.items()):
        if place[0] != key.namespace or place not in known.servers:
            continue
        for alias, file in list(memo.aliases.items()):
            if file.job == key.name:
                await rollout.remove(state.api, known, place, alias)
        known.mark(Key("ModelServer", *place))


async def _say_invalid(state: State, key: Key) -> None:
    """An object that we cannot read: said in its conditions, and nothing is started or stopped for it."""
    body, why = state.known.invalid[key.namespace, key.name]
    meta = body["metadata"]
    moment = shown.time(clock.now())
    words = (("Ready", "False"), ("Reconciling", "False"), ("Stalled", "True"))
    said = [
        {
            "type": kind,
            "status": value,
            "reason": "InvalidSpec",
            "message": why,
            "observedGeneration": meta.get("generation", 0),
            "lastTransitionTime": moment,
        }
        for kind, value in words
    ]
    known = {condition["type"]: condition for condition in (body.get("status") or {}).get("conditions") or ()}
    if known.get("Stalled", {}).get("message") == why:
        return
    await state.api.apply_status(
        {
            "apiVersion": metadata.API_VERSION,
            "kind": key.kind,
            "metadata": {"name": meta["name"], "namespace": meta["namespace"], "uid": meta["uid"]},
            "status": {"observedGeneration": meta.get("generation", 0), "phase": "Failed", "conditions": said},
        }
    )
