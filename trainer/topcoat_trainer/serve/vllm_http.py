"""A stock vLLM's HTTP routes, as far as they are used. Every call has a limit of time.

Knows neither versions nor tokens' texts. The prompt's and the answer's tokens go as numbers, so no text is read twice.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2

from topcoat_trainer.serve.engine import EngineLost

Json = dict[str, Any]
TOKEN = "token_id:"  # noqa: S105 (how vLLM writes a token as its number)
CONNECT_SECONDS = 5.0
LOOK_SECONDS = 10.0
LOAD_SECONDS = 300.0
KEEP_ALIVE_SECONDS = 2.0
"""Less than vLLM's own 5: a request on a connection that it is closing would look as if vLLM were gone."""
STARTED = "process_start_time_seconds "
# It would say every request, each second.
logging.getLogger("httpx2").setLevel(logging.WARNING)


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
        self._answer_seconds = answer_seconds
        limits = httpx2.Limits(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=KEEP_ALIVE_SECONDS
        )  # fmt: skip
        # Loopback: whatever proxy the environment names is not asked.
        self._client = httpx2.AsyncClient(base_url=url, limits=limits, trust_env=False)

    async def close(self) -> None:
        await self._client.aclose()

    async def version(self) -> str:
        return str((await self._get("/version"))["version"])

    async def boot(self) -> str:
        """Tells one start of the process from another; empty where it does not say."""
        with _translated():
            said = await self._client.get("/metrics", timeout=_limit(LOOK_SECONDS))
            _checked(said)
        return next((row[len(STARTED) :] for row in said.text.splitlines() if row.startswith(STARTED)), "")

    async def healthy(self) -> None:
        """Away or Refused where it cannot work."""
        with _translated():
            _checked(await self._client.get("/health", timeout=_limit(LOOK_SECONDS)))

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
        with _translated():
            said = await self._client.post("/v1/completions", json=body, timeout=_limit(self._answer_seconds))
            _checked(said)
        choice: Json = said.json()["choices"][0]
        return choice

    async def stream(self, body: Json) -> AsyncGenerator[Json, None]:
        """The choice in pieces. Closing it closes the connection, and with that vLLM ends the work."""
        asked = {**body, "stream": True}
        with _translated():
            async with self._client.stream(
                "POST", "/v1/completions", json=asked, timeout=_limit(self._answer_seconds)
            ) as said:  # fmt: skip
                if said.status_code != 200:
                    await said.aread()
                _checked(said)
                lines = said.aiter_lines()
                async for line in lines:
                    if not line.startswith("data: ") or line == "data: [DONE]":
                        continue
                    event = json.loads(line.removeprefix("data: "))
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
        with _translated():
            said = await self._client.get(path, timeout=_limit(LOOK_SECONDS))
            _checked(said)
        found: Json = said.json()
        return found

    async def _told(self, path: str, body: Json) -> None:
        with _translated():
            _checked(await self._client.post(path, json=body, timeout=_limit(LOAD_SECONDS)))


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


def _limit(seconds: float) -> httpx2.Timeout:
    return httpx2.Timeout(seconds, connect=CONNECT_SECONDS, pool=None)


def _checked(said: httpx2.Response) -> None:
    if said.status_code == 200:
        return
    try:
        message = str(said.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"status {said.status_code}"
    raise Refused(said.status_code, message[:400])


@contextmanager
def _translated() -> Iterator[None]:
    """Inside it, HTTP's errors become ours. Their words are left out: they may hold a prompt's text."""
    try:
        yield
    except httpx2.TimeoutException as error:
        raise TimeoutError("vLLM did not answer in time") from error
    except (httpx2.TransportError, httpx2.StreamError) as error:
        raise Away(f"vLLM is away ({type(error).__name__})") from error
