"""Constant load on an alias while it moves: what was answered, when, and what it named meanwhile. For tests only."""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai

from tests.support import served

TOKENS = 8
TELL_ME: dict[str, Any] = {"prompt": "tell me", "max_tokens": TOKENS}
Choose = Callable[[int], served.Server]
"""Whom a client asks now, by the client's number."""


@dataclass(frozen=True)
class Said:
    """One answer. `fingerprints`: of all its parts."""

    sent: float
    received: float
    fingerprints: frozenset[str | None]
    text: str


@dataclass(frozen=True)
class Broken:
    """A request that got no answer, or no whole one."""

    sent: float
    received: float
    error: Exception
    text: str
    """What had come of it."""


@dataclass
class Moves:
    """What the alias named, and when. While a move is under way, both that which was named and that which will be."""

    _begun: list[tuple[float, str]] = field(default_factory=list)
    _done: list[float] = field(default_factory=list)

    @contextlib.contextmanager
    def to(self, digest: str) -> Iterator[None]:
        self._begun.append((time.monotonic(), digest))
        yield
        self._done.append(time.monotonic())

    def named(self, sent: float, received: float) -> set[str]:
        """All that the alias named at a moment between the two."""
        ends = [*self._done[1:], math.inf]
        return {
            digest for (begun, digest), end in zip(self._begun, ends, strict=True) if begun <= received and end >= sent
        }


class Load:
    """So many clients, each of which asks again as soon as it is answered; half of them stream."""

    def __init__(self, clients: int, choose: Choose, asked: Sequence[dict[str, Any]] = (TELL_ME,)) -> None:
        """`asked`: what each client asks, one after the other."""
        self.answers: list[Said] = []
        self.broken: list[Broken] = []
        self.refused: list[float] = []
        """When nobody took a connection: the client goes elsewhere."""
        self._choose, self._asked = choose, asked
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(clients)]

    @contextlib.contextmanager
    def running(self) -> Iterator[Load]:
        for thread in self._threads:
            thread.start()
        try:
            yield self
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join(60)

    def _ask_on(self, number: int) -> None:
        with (
            httpx2.Client(trust_env=False) as http,
            openai.OpenAI(
                base_url="http://nobody", api_key="none", max_retries=0, timeout=60, http_client=http
            ) as client,
        ):
            for asked in itertools.cycle(self._asked):
                if self._over.is_set():
                    break
                self._ask(client, number, asked)

    def _ask(self, client: openai.OpenAI, number: int, asked: dict[str, Any]) -> None:
        parts: list[Any] = []
        sent = time.monotonic()
        try:
            own = client.with_options(base_url=self._choose(number).url)
            if number % 2:
                parts.extend(own.completions.create(model="claims", **asked, stream=True))
            else:
                parts.append(own.completions.create(model="claims", **asked))
            assert parts[-1].choices[0].finish_reason, "the stream ended before its end"
        except Exception as error:  # noqa: BLE001 (any failure at all is told)
            if isinstance(error, openai.APIConnectionError) and isinstance(error.__cause__, httpx2.ConnectError):
                self.refused.append(sent)
            else:
                self.broken.append(Broken(sent, time.monotonic(), error, _text(parts)))
            return
        prints = frozenset(part.system_fingerprint for part in parts)
        self.answers.append(Said(sent, time.monotonic(), prints, _text(parts)))


def _text(parts: list[Any]) -> str:
    return "".join(part.choices[0].text for part in parts)


def wrong(answers: list[Said], moves: Moves, expected: dict[str, str]) -> list[Said]:
    """Answers of a version that was not named, under another's fingerprint, or under none."""
    return [
        said
        for said in answers
        if len(said.fingerprints) != 1
        or not said.fingerprints <= moves.named(said.sent, said.received)
        or expected[str(next(iter(said.fingerprints)))] != said.text
    ]
