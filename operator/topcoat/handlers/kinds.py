"""kopf's part: it watches our own kinds and hands their news on. No change handlers, no annotations, no finalizers."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import kopf
import pydantic

from topcoat.api import finetunejob, metadata, modelserver, profile
from topcoat.cluster import served, snapshot
from topcoat.cluster.queue import Key
from topcoat.handlers import login
from topcoat.handlers.state import State

Json = dict[str, Any]

logger = logging.getLogger(__name__)

NAMES = {"FineTuneJob": "finetunejobs", "ModelServer": "modelservers", "FineTuneProfile": "finetuneprofiles"}


class NoDiff(kopf.DiffBaseStorage):
    """kopf keeps no copy of what it saw: we handle no diffs, and copies cost more than all the rest."""

    def build(self, **_: Any) -> Any:
        return {}

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None


class NoProgress(kopf.ProgressStorage):
    """kopf writes no progress of handlers: ours have none."""

    def fetch(self, **_: Any) -> Any:
        return None

    def store(self, **_: Any) -> None:
        return None

    def purge(self, **_: Any) -> None:
        return None

    def touch(self, **_: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence


def registry(state: State, connection: login.Connection) -> kopf.OperatorRegistry:
    """All of our handlers."""
    made = kopf.OperatorRegistry()
    group, version = metadata.GROUP, metadata.VERSION

    @kopf.on.startup(registry=made)
    def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
        settings.scanning.disabled = True
        settings.posting.enabled = False
        settings.peering.standalone = True
        settings.persistence.diffbase_storage = NoDiff()
        settings.persistence.progress_storage = NoProgress()
        settings.persistence.finalizer = f"{group}/finalizer"
        settings.networking.error_backoffs = (0.1, 0.3, 1, 1, 1, 1, 1, 1, 1, 1)
        settings.watching.reconnect_backoff = 0.1
        settings.queueing.error_delays = (0.2, 0.5, 1)
        settings.queueing.exit_timeout = 0.5

    @kopf.on.login(registry=made)
    def authenticate(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=connection.server, aiohttp_session=connection.session)

    @kopf.on.event(group, version, NAMES["FineTuneJob"], registry=made)
    async def job(event: Any, **_: Any) -> None:
        take_job(state, event["type"], event["object"])

    @kopf.on.event(group, version, NAMES["ModelServer"], registry=made)
    async def server(event: Any, **_: Any) -> None:
        take_server(state, event["type"], event["object"])

    @kopf.on.event(group, version, NAMES["FineTuneProfile"], registry=made)
    async def found_profile(event: Any, **_: Any) -> None:
        take_profile(state, event["type"], event["object"])

    return made


def _heard(state: State, kind: str) -> None:
    state.heard[kind] = asyncio.get_running_loop().time()


def take_job(state: State, change: str | None, body: Json) -> None:
    """A FineTuneJob came, changed or went."""
    _heard(state, "FineTuneJob")
    meta, known = body["metadata"], state.known
    place = (meta["namespace"], meta["name"])
    key = Key("FineTuneJob", *place)
    if change == "DELETED":
        gone = known.jobs.get(place)
        if gone is None or gone.metadata.uid == meta["uid"]:
            known.jobs.pop(place, None)
            known.versions.pop(key, None)
            known.invalid.pop(place, None)
        known.uids.pop(meta["uid"], None)
        state.queue.add(key)
        return
    version = int(meta["resourceVersion"])
    if version <= known.versions.get(key, -1):
        return  # the echo of our own write, or older
    known.versions[key] = version
    known.uids[meta["uid"]] = key
    try:
        found = finetunejob.FineTuneJob.model_validate(_plain(body))
    except pydantic.ValidationError as error:
        known.jobs.pop(place, None)
        known.invalid[place] = (body, _words(error))
        state.queue.add(key)
        return
    known.invalid.pop(place, None)
    before = known.jobs.get(place)
    known.jobs[place] = found
    if before is not None and before.spec.serving != found.spec.serving:
        name = served.server_name_or_none(known, found)
        if name is not None:
            state.queue.add(Key("ModelServer", place[0], name))
    if (
        before is None
        or before.spec != found.spec
        or before.status != found.status
        or before.metadata != found.metadata
    ):
        state.queue.add(key, first=meta["uid"] not in known.children)


def take_server(state: State, change: str | None, body: Json) -> None:
    """A ModelServer came, changed or went."""
    _heard(state, "ModelServer")
    meta = body["metadata"]
    place = (meta["namespace"], meta["name"])
    if change == "DELETED" or "deletionTimestamp" in meta:
        state.known.servers.pop(place, None)
        state.known.agents.pop(place, None)
    else:
        state.known.servers[place] = _plain(body)
    state.queue.add(Key("ModelServer", *place))
    for (namespace, name), job in state.known.jobs.items():
        if namespace == place[0] and job.status and job.status.base_model and change in (None, "ADDED", "DELETED"):
            state.queue.add(Key("FineTuneJob", namespace, name))


def take_profile(state: State, change: str | None, body: Json) -> None:
    """A FineTuneProfile came, changed or went: the jobs that name it are looked at."""
    _heard(state, "FineTuneProfile")
    name = body["metadata"]["name"]
    if change == "DELETED":
        state.known.profiles.pop(name, None)
        state.known.digests.pop(name, None)
    else:
        try:
            found = profile.FineTuneProfile.model_validate(_plain(body))
        except pydantic.ValidationError as error:
            # What was in force stays in force.
            logger.error("FineTuneProfile %s cannot be used: %s", name, _words(error))  # noqa: TRY400 - somebody else's
            return
        state.known.profiles[name], state.known.digests[name] = found, snapshot.digest(found)
    for (namespace, job_name), job in state.known.jobs.items():
        if job.spec.profile == name:
            state.queue.add(Key("FineTuneJob", namespace, job_name))
    for place, server in state.known.servers.items():
        if modelserver.ModelServerSpec.model_fields["profile"].default == name or server["spec"].get("profile") == name:
            state.queue.add(Key("ModelServer", *place))


def _plain(body: Any) -> Json:
    """The object without what other programs keep in it."""
    meta = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": meta}


def _words(error: pydantic.ValidationError) -> str:
    """Where and why, without what was written there."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in found)[:900]
