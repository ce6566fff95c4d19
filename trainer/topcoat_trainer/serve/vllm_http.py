"""A stock vLLM's HTTP routes, as far as they are used. Every call has a limit of time.

Knows neither versions nor tokens' texts. The prompt's and the answer's tokens go as numbers, so no text is read twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import aiohttp
import pydantic_core

from topcoat_trainer.serve.engine import EngineLost

Json = dict[str, Any]
TOKEN = "token_id:"  # noqa: S105 (how vLLM writes a token as its number)
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 10.0
LOAD_SECONDS = 300.0
KEEP_ALIVE_SECONDS = 2.0
"""Less than vLLM's own 5: a request on a connection that it is closing would look as if vLLM were gone."""
STARTED = "process_start_time_seconds "
EVENT = b"data: "
HEADERS = {"content-type": "application/json"}


class Away(EngineLost):
    """Nobody listens, the connection broke, or vLLM does not know the version: it is not the process that it was."""


class Refused(Exception):
    """vLLM's own refusal."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class VLLM:
    """One vLLM. `answer_seconds`: how long it may be silent before and within an answer."""

    def __init__(self, url: str, answer_seconds: float) -> None:
        self._url = url
        self._answer_seconds = answer_seconds
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def version(self) -> str:
        return str((await self._get("/version"))["version"])

    async def boot(self) -> str:
        """Tells one start of the process from another; empty where it does not say."""
        rows = (await self._whole("GET", "/metrics", None, LOOK_SECONDS)).decode().splitlines()
        return next((row[len(STARTED) :] for row in rows if row.startswith(STARTED)), "")

    async def healthy(self) -> None:
        """Away or Refused where it cannot work."""
        await self._whole("GET", "/health", None, LOOK_SECONDS)

    async def cards(self) -> list[Json]:
        """The base model and what is loaded."""
        found: list[Json] = (await self._get("/v1/models"))["data"]
        return found

    async def load(self, name: str, path: str) -> None:
        await self._told("/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    async def unload(self, name: str) -> None:
        """Also fine where it is not loaded."""
        try:
            await self._told("/v1/unload_lora_adapter", {"lora_name": name})
        except Refused as refused:
            if refused.status != 404:
                raise

    async def complete(self, body: Json) -> Json:
        """The one choice of a whole answer."""
        said = await self._whole("POST", "/v1/completions", body, self._answer_seconds)
        choice: Json = json.loads(said)["choices"][0]
        return choice

    async def stream(self, body: Json) -> AsyncGenerator[Json, None]:
        """The choice in pieces. Closing it closes the connection, and with that vLLM ends the work."""
        limit = self._answer_seconds
        async with (
            self._asked("POST", "/v1/completions", {**body, "stream": True}, limit) as said,
            aclosing(_lines(said.content)) as lines,
        ):
            async for line in lines:
                if not line.startswith(EVENT + b"{"):
                    continue
                event = json.loads(line.removeprefix(EVENT))
                if "error" in event:
                    raise Refused(500, "the answer broke off")
                for choice in event["choices"]:
                    if choice.get("finish_reason"):  # read to its end, the connection is there for the next answer
                        async for _ in lines:
                            pass
                    yield choice

    async def likelihoods(self, model: str, ids: tuple[int, ...], tokens: list[int]) -> list[float]:
        """Log-probability of each token behind a text."""
        body = {**asked(model, ids), "max_tokens": 1, "logprobs": 0, "logprob_token_ids": tokens}
        found = numbers((await self.complete(body))["logprobs"]["top_logprobs"][0])
        try:
            return [found[token] for token in tokens]
        except KeyError:
            words = "it does not tell the log-probabilities of given tokens (logprob_token_ids); use vLLM 0.32 or later"
            raise Refused(500, words) from None

    async def _get(self, path: str) -> Json:
        found: Json = json.loads(await self._whole("GET", path, None, LOOK_SECONDS))
        return found

    async def _told(self, path: str, body: Json) -> None:
        await self._whole("POST", path, body, LOAD_SECONDS)

    async def _whole(self, method: str, path: str, body: Json | None, limit: float) -> bytes:
        async with self._asked(method, path, body, limit) as said:
            return await said.read()

    @asynccontextmanager
    async def _asked(
        self, method: str, path: str, body: Json | None, limit: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Errors of the connection become ours. Their words are left out: they may hold a prompt's text."""
        if self._session is None:  # it wants a loop that runs
            kept = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE_SECONDS)
            # Loopback: whatever proxy the environment names is not asked.
            self._session = aiohttp.ClientSession(self._url, connector=kept, trust_env=False)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=limit)
        data = None if body is None else pydantic_core.to_json(body)
        try:
            async with self._session.request(method, path, data=data, headers=HEADERS, timeout=timeout) as said:
                if said.status != 200:
                    raise Refused(said.status, _message(await said.read()) or f"status {said.status}")
                yield said
        except TimeoutError as error:
            raise TimeoutError("vLLM did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise Away(f"vLLM is away ({type(error).__name__})") from error


def asked(model: str, ids: tuple[int, ...]) -> Json:
    """What every question has. Tokens are numbers both ways; what ends an answer is ours to say, not vLLM's."""
    return {
        "model": model, "prompt": list(ids), "temperature": 0.0, "ignore_eos": True, "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }  # fmt: skip


def numbers(row: dict[str, float]) -> dict[int, float]:
    """Token -> log-probability."""
    return {int(name.removeprefix(TOKEN)): value for name, value in row.items()}


def largest(differences: Iterable[float]) -> float:
    """Infinity where one is not a number: max() would overlook it."""
    found = list(differences)
    return max(found, default=0.0) if all(map(math.isfinite, found)) else math.inf


async def _lines(content: aiohttp.StreamReader) -> AsyncGenerator[bytes, None]:
    """Of any length, which aiohttp's own are not."""
    rest = b""
    async for part in content.iter_any():
        *whole, rest = (rest + part).split(b"\n")
        for line in whole:
            yield line


def _message(body: bytes) -> str:
    """Of vLLM's error; empty: it is none that is known."""
    try:
        return str(json.loads(body)["error"]["message"])[:400]
    except (ValueError, KeyError, TypeError):
        return ""
