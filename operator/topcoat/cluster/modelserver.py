"""Carries a ModelServer's plan out: its objects, its pods' agents, its status. Decides nothing."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from topcoat.api import finetunejob, modelserver, profile, server, serving, status
from topcoat.cluster import agent, client, clock, memory, rollout, served
from topcoat.cluster.queue import Key
from topcoat.manifests import configmap, deployment, metadata, pod, service, vllm
from topcoat.plan import modelserver as plans
from topcoat.plan import profile as profiles

Json = dict[str, Any]

SOON_SECONDS = 0.5
QUIET_SECONDS = 30.0
NEWS_SECONDS = 5
"""A pod waits so long for a first push: it is asked twice a second, if we are there."""


@dataclass(slots=True)
class Hands:
    """What is needed to keep servers."""

    api: client.Client
    known: memory.Memory
    platform: pod.Platform
    agents: agent.Agents

    async def step(self, place: memory.Name) -> float | None:
        """Observe, plan, act for one server; says when to look again."""
        body = self.known.servers.get(place)
        if body is None:
            self.known.agents.pop(place, None)
            return None
        wanted = modelserver.ModelServer.model_validate(body)
        memo = await rollout.loaded(self.api, self.known, place)
        await self._ask(place, memo)
        decided = plans.plan(wanted, self._seen(place, wanted, memo), clock.now())
        for alias in decided.drop:
            await rollout.remove(self.api, self.known, place, alias)
        if decided.delete:
            await self.api.delete("ModelServer", *place, uid=wanted.metadata.uid)
            return None
        await self._scale(wanted, decided)
        await self._apply(wanted, memo, decided)
        await self._tell(wanted, decided)
        return SOON_SECONDS if decided.unsettled else QUIET_SECONDS

    async def _ask(self, place: memory.Name, memo: memory.ServerMemory) -> None:
        """Pushes what changed to each pod that runs, and asks what it holds; news marks the jobs that wait for it.

        One that is not ready yet would begin with what its mounted files say, which may be a minute old; one that ends
        still answers who was sent there. Nobody waits for the word of either.
        """
        pods = [found for found in self.known.pods_of(*place) if found.ip and found.phase == "Running"]
        memo.keep({found.uid for found in pods})
        changed = await asyncio.gather(*(self.agents.meet(place, memo, found) for found in pods))
        ready = frozenset(found.uid for found in served.ready_pods(self.known, *place))
        if any(changed) or ready != memo.ready:
            memo.ready = ready
            for user in self._users(place):
                self.known.mark(Key("FineTuneJob", place[0], user.job))

    def _users(self, place: memory.Name) -> list[plans.User]:
        namespace, name = place
        return [
            _user(found)
            for (where, _), found in sorted(self.known.jobs.items())
            if where == namespace and served.server_name_or_none(self.known, found) == name
        ]

    def _seen(self, place: memory.Name, wanted: modelserver.ModelServer, memo: memory.ServerMemory) -> plans.Seen:
        pods = served.ready_pods(self.known, *place)
        every = [found for found in self.known.pods_of(*place) if not found.deleting]
        waits = (found.waiting or self.known.stuck.get(found.uid) for found in every)
        return plans.Seen(
            ours=served.is_ours(self.known.servers[place]),
            users=self._users(place),
            aliases=dict(memo.aliases),
            desired_pods=wanted.spec.replicas,
            ready_pods=len(pods),
            states=[memo.agents[found.uid] for found in pods if found.uid in memo.agents],
            waiting=next((wait for wait in waits if wait), None),
            problem=self._problem(wanted),
        )

    def _problem(self, wanted: modelserver.ModelServer) -> str:
        """What keeps its pods from being spelt."""
        found = self.known.profiles.get(wanted.spec.profile)
        if found is None:
            return f"there is no FineTuneProfile {wanted.spec.profile!r}"
        needs = wanted.spec.engine is serving.Engine.VLLM and found.spec.images.vllm is None
        return profiles.no_vllm(found) if needs else ""

    async def _scale(self, wanted: modelserver.ModelServer, decided: plans.Plan) -> None:
        """Asks for more or fewer pods, unless somebody else (a person, an HPA) decides about their number."""
        if decided.replicas is None:
            return
        body = {
            "apiVersion": wanted.api_version,
            "kind": wanted.kind,
            "metadata": {"name": wanted.metadata.name, "namespace": wanted.metadata.namespace},
            "spec": {"replicas": decided.replicas},
        }
        try:
            await self.api.apply(body, f"{metadata.FIELD_MANAGER}-scale", force=False)
        except client.ApiError as error:
            if error.status != 409:
                raise

    async def _apply(self, wanted: modelserver.ModelServer, memo: memory.ServerMemory, decided: plans.Plan) -> None:
        """Service, ConfigMap and Deployment, where they are not what they are to be."""
        found = self.known.profiles.get(wanted.spec.profile)
        if found is None or decided.base is None or self._problem(wanted):
            return
        objects = self._objects(wanted, found, decided.base, decided)
        digest = hashlib.sha256(pod.compact({"objects": objects}).encode()).hexdigest()
        if memo.applied == digest:
            return
        for body in objects:
            await self.api.apply(body)
        memo.applied = digest

    def _objects(
        self,
        wanted: modelserver.ModelServer,
        found: profile.FineTuneProfile,
        base: status.BaseModelStatus,
        decided: plans.Plan,
    ) -> list[Json]:
        meta = wanted.metadata
        owner = metadata.Owner("ModelServer", meta.name, meta.namespace, meta.uid)
        file = server.ServerFile(
            name=meta.name,
            namespace=meta.namespace,
            base_model_id=base.id,
            base_model_path=base.path,
            base_model_digest=base.digest,
            max_adapters=wanted.spec.max_adapters,
            max_rank=wanted.spec.max_rank,
            news_seconds=NEWS_SECONDS,
            **_engine(wanted, found),
            admin_token_sha256=self.agents.token_sha256((meta.namespace, meta.name)),
        )
        model, _ = profiles.resolved(wanted.spec.base_model, found)
        spec = wanted.spec.model_copy(update={"base_model": model})
        shape = deployment.Server(owner, spec, file, found, decided.claims, decided.tokens)
        return [
            configmap.configmap(owner, file),
            service.service(owner),
            deployment.deployment(self.platform, shape),
        ]

    async def _tell(self, wanted: modelserver.ModelServer, decided: plans.Plan) -> None:
        if wanted.status == decided.status:
            return
        meta = wanted.metadata
        body = {
            "apiVersion": wanted.api_version,
            "kind": wanted.kind,
            "metadata": {"name": meta.name, "namespace": meta.namespace},
            "status": decided.status.as_json(),
        }
        made = await self.api.apply_status(body)
        if (meta.namespace, meta.name) in self.known.servers:
            self.known.servers[meta.namespace, meta.name] = made


def _engine(wanted: modelserver.ModelServer, found: profile.FineTuneProfile) -> Json:
    """What the server file says of a vLLM, which takes more requests at once than our own engine."""
    if wanted.spec.engine is not serving.Engine.VLLM:
        return {}
    asked = pod.resources(wanted.spec.resources, found.spec.server.resources)
    return {"vllm": vllm.beside(vllm.gpus(asked)), "max_running": vllm.RUNNING, "max_waiting": vllm.WAITING}


def _user(found: finetunejob.FineTuneJob) -> plans.User:
    said = found.status
    secret = found.spec.serving.authentication
    return plans.User(
        job=found.metadata.name,
        alias=found.alias,
        replicas=found.spec.serving.replicas,
        base=said.base_model if said else None,
        token_secret=secret.secret_ref.name if secret else None,
    )
