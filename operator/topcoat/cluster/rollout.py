"""Writes alias files: one key of a server's ConfigMap each. Makes the ModelServer on first use."""

from __future__ import annotations

from typing import Any

from topcoat.api import base_model, finetunejob, metadata, modelserver, names, server, serving
from topcoat.cluster import client, clock, memory, served
from topcoat.cluster.queue import Key
from topcoat.manifests import claim, configmap, deployment
from topcoat.manifests import metadata as labels
from topcoat.plan import intent

Json = dict[str, Any]


async def write_alias(
    api: client.Client, known: memory.Memory, job: finetunejob.FineTuneJob, action: intent.WriteAlias
) -> bool:
    """Tells the server which versions to hold and which of them answers."""
    name = served.server_name_or_none(known, job)
    if name is None:
        return False
    place = (job.metadata.namespace, name)
    if place not in known.servers:
        await _make_server(api, known, job, name)
    memo = await loaded(api, known, place)
    before = memo.aliases.get(action.alias)
    if before is not None and before.job != job.metadata.name:
        return False  # another job took the alias since this was planned; the next look says so
    file = server.AliasFile(
        alias=action.alias,
        job=job.metadata.name,
        # Counts on by the clock when an alias is made anew: pods may still remember the old one's count.
        generation=max(int(clock.now().timestamp()), before.generation + 1 if before else 1),
        versions=tuple(
            server.WantedVersion(version=held.version, path=claim.folder_in_server(held.path), digest=held.digest)
            for held in action.versions
        ),
        targets=_targets(action),
        watched=action.watched,
        token_file=deployment.token_file(action.alias) if job.spec.serving.authentication else None,
    )
    await api.merge("ConfigMap", *place, configmap.alias_patch(action.alias, file))
    memo.aliases[action.alias] = file
    known.mark(Key("ModelServer", *place))
    return True


def _targets(action: intent.WriteAlias) -> tuple[server.Target, ...]:
    """What was there first stands first, so that a rising share keeps the clients that it has reached."""
    if action.target is None:
        return ()
    if not action.watched or action.watched == action.target:
        return (server.Target(version=action.target),)
    tried = server.Target(version=action.watched, weight=action.weight)
    return (server.Target(version=action.target, weight=100 - action.weight), tried)


async def drop_alias(api: client.Client, known: memory.Memory, job: finetunejob.FineTuneJob, alias: str) -> bool:
    """Takes the alias away, wherever this job has it."""
    name = served.server_name_or_none(known, job)
    wrote = False
    for place, memo in list(known.agents.items()):
        file = memo.aliases.get(alias)
        if place[0] == job.metadata.namespace and file and file.job == job.metadata.name and name in (None, place[1]):
            await remove(api, known, place, alias)
            wrote = True
    return wrote


async def remove(api: client.Client, known: memory.Memory, place: memory.Name, alias: str) -> None:
    """Takes an alias' key out of a server's ConfigMap."""
    try:
        await api.merge("ConfigMap", *place, configmap.alias_patch(alias, None))
    except client.ApiError as error:
        if error.status != 404:
            raise
    known.agents[place].aliases.pop(alias, None)
    known.mark(Key("ModelServer", *place))


async def loaded(api: client.Client, known: memory.Memory, place: memory.Name) -> memory.ServerMemory:
    """The server's alias files; read once after a start. The ConfigMap is made here if it is missing."""
    memo = known.agents[place]
    if memo.loaded:
        return memo
    body = await api.get_or_none("ConfigMap", *place)
    if body is None:
        owner = labels.Owner("ModelServer", place[1], place[0], known.servers[place]["metadata"]["uid"])
        body = await api.apply(configmap.empty(owner))
    for key, text in (body.get("data") or {}).items():
        if key != server.SERVER_FILE:
            file = server.AliasFile.model_validate_json(text)
            memo.aliases[file.alias] = file
    memo.loaded = True
    return memo


async def _make_server(api: client.Client, known: memory.Memory, job: finetunejob.FineTuneJob, name: str) -> None:
    # Applied, not created: then nobody owns the number of pods yet, and whoever scales first may: we, a person, an HPA.
    known.servers[job.metadata.namespace, name] = await api.apply(
        model_server(job, name, served.engine(known, job)), force=False
    )


def model_server(job: finetunejob.FineTuneJob, name: str, engine: serving.Engine) -> Json:
    """The ModelServer of a job that has none yet."""
    spec = modelserver.ModelServerSpec(
        profile=job.spec.profile,
        base_model=base_model.BaseModel(
            name=job.spec.base_model.name, uri=job.spec.base_model.uri, revision=job.spec.base_model.revision
        ),
        engine=engine,
        resources=job.spec.serving.resources,
    )
    meta = labels.shared(name, job.metadata.namespace)
    if job.spec.serving.mode is serving.Mode.DEDICATED:
        meta["labels"][labels.JOB] = names.label(job.metadata.name)
    return {
        "apiVersion": metadata.API_VERSION,
        "kind": "ModelServer",
        "metadata": meta,
        "spec": {field: value for field, value in spec.as_json().items() if field != "replicas"},
    }
