"""The server that the conformance cases are put to, whichever it is: an address, a model, a token. For tests only."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import openai
import pytest

ENGINE = os.environ.get("TOPCOAT_CONFORMANCE_ENGINE", "topcoat")
"""`topcoat` or `vllm`: which of the documented differences hold."""


def only_ours(reason: str) -> pytest.MarkDecorator:
    """A case that vLLM fails, and why that is known."""
    return pytest.mark.skipif(ENGINE != "topcoat", reason=f"not so in vLLM: {reason}")


@dataclass(frozen=True)
class Target:
    """`url` ends with /v1."""

    url: str
    model: str
    token: str = ""

    @classmethod
    def told(cls) -> Target | None:
        """From the environment; None: it says nothing."""
        known = {name: os.environ.get(f"TOPCOAT_CONFORMANCE_{name.upper()}", "") for name in ("url", "model", "token")}
        return cls(**known) if known["url"] else None

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.token}"} if self.token else {}

    @contextlib.contextmanager
    def client(self) -> Iterator[openai.OpenAI]:
        with httpx2.Client(trust_env=False) as http, openai.OpenAI(
            base_url=self.url, api_key=self.token or "none", max_retries=0, timeout=120, http_client=http
        ) as made:  # fmt: skip
            yield made

    def chat(self, words: str = "Where is the claim?", **more: Any) -> Any:
        """An answer, or all chunks of a stream."""
        messages = more.pop("messages", [{"role": "user", "content": words}])
        with self.client() as client:
            said = client.chat.completions.create(
                **{"model": self.model, "messages": messages, "temperature": 0, "max_tokens": 12, **more}
            )
            return list(said) if more.get("stream") else said

    def complete(self, prompt: Any = "tell the claim", **more: Any) -> Any:
        """As `chat`."""
        with self.client() as client:
            said = client.completions.create(
                **{"model": self.model, "prompt": prompt, "temperature": 0, "max_tokens": 12, **more}
            )
            return list(said) if more.get("stream") else said

    def raw(self, path: str, body: Any, method: str = "POST", **headers: str) -> httpx2.Response:
        """`body`: bytes as they are, anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        shown = {"content-type": "application/json", **self.headers, **headers}
        return httpx2.request(
            method, f"{self.url}{path}", content=content, headers=shown, timeout=120, trust_env=False
        )  # fmt: skip

    @property
    def card(self) -> dict[str, Any]:
        with self.client() as client:
            return next(card.model_dump() for card in client.models.list() if card.id == self.model)


def texts(said: Any) -> list[str]:
    return [choice.text if hasattr(choice, "text") else choice.message.content for choice in said.choices]


def joined(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join((choice.delta.content if hasattr(choice, "delta") else choice.text) or "" for choice in choices)


def adds_up(usage: Any) -> None:
    assert usage.prompt_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def plain(text: str, length: int) -> str:
    """A piece of whole characters that stands in the text for the first time after its beginning; empty: none does."""
    pieces = (text[place : place + length] for place in range(2, len(text) - length))
    return next((piece for piece in pieces if "\ufffd" not in piece and text.index(piece) > 0), "")


def is_an_error(said: httpx2.Response, status: int) -> dict[str, Any]:
    assert said.status_code == status, said.text
    error: dict[str, Any] = said.json()["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert error["message"]
    return error
