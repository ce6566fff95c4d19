"""Speaks with the agents of server pods: pushes alias files and asks what is loaded, proved and in force.

The token of each server is derived from the operator's key; a server knows only its hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from dataclasses import dataclass

import aiohttp
import pydantic

from topcoat.api import server
from topcoat.cluster import memory
from topcoat.cluster.record import PodRecord

TIMEOUT_SECONDS = 5.0
UNREADY_SECONDS = 1.0
"""A pod that begins or ends may not answer, and the others are not to wait for it."""


def session() -> aiohttp.ClientSession:
    """A session of its own: agents never see the API server's credentials."""
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64))


@dataclass(slots=True)
class Agents:
    """One HTTP session to all agents. `key`: the operator's own secret."""

    session: aiohttp.ClientSession
    key: bytes

    def token(self, place: memory.Name) -> str:
        """What the operator shows to the agents of one server."""
        return hmac.new(self.key, f"{place[0]}/{place[1]}".encode(), hashlib.sha256).hexdigest()

    def token_sha256(self, place: memory.Name) -> str:
        return hashlib.sha256(self.token(place).encode()).hexdigest()

    async def meet(self, place: memory.Name, memo: memory.ServerMemory, pod: PodRecord) -> bool:
        """Asks, and pushes what this pod was not told yet; true where its answer is another one than before."""
        before = memo.agents.get(pod.uid)
        try:
            state = await self._state(place, pod)
            state = await self._told(place, memo, pod, state)
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError, pydantic.ValidationError):  # noqa: UP041 - as in client
            memo.agents.pop(pod.uid, None)
            return before is not None
        memo.agents[pod.uid] = state
        return before != state

    async def _told(
        self, place: memory.Name, memo: memory.ServerMemory, pod: PodRecord, state: server.AgentState
    ) -> server.AgentState:
        """Its state once it was told all. A pod whose engine has begun anew was told nothing."""
        life = state.engine.boot_id
        known, told = memo.pushed.get(pod.uid, ("", {}))
        if known != life:
            told = {}
        now = {alias: file.generation for alias, file in memo.aliases.items()}
        if (known, told) == (life, now):
            return state
        news = tuple(file for alias, file in sorted(memo.aliases.items()) if told.get(alias) != file.generation)
        push = server.Push(aliases=news, dropped=tuple(sorted(set(told) - set(now))))
        async with self.session.post(
            _url(pod, "aliases"), json=push.as_json(), headers=self._headers(place), timeout=_limit(pod)
        ) as answer:
            answer.raise_for_status()
            after = server.AgentState.model_validate_json(await answer.read())
        memo.pushed[pod.uid] = (after.engine.boot_id, now)
        return after

    async def _state(self, place: memory.Name, pod: PodRecord) -> server.AgentState:
        async with self.session.get(_url(pod, "state"), headers=self._headers(place), timeout=_limit(pod)) as answer:
            answer.raise_for_status()
            return server.AgentState.model_validate_json(await answer.read())

    def _headers(self, place: memory.Name) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(place)}"}


def _limit(pod: PodRecord) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=TIMEOUT_SECONDS if pod.ready and not pod.deleting else UNREADY_SECONDS)


def _url(pod: PodRecord, what: str) -> str:
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    return f"http://{host}:{server.AGENT_PORT}/agent/{what}"
