"""What the server asks of an engine, and what an engine answers: the seam that every engine fits.

An engine holds versions under keys that are never used twice for other weights, and knows neither alias nor client.
The base model's key is None. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from topcoat.api.report import Probe


class EngineLost(Exception):
    """The engine is away or has begun anew: what it held is gone, and will be loaded again."""


class CannotAnswer(Exception):
    """Why this engine cannot answer a request; the words are for the client."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the answer is drawn. `top`: tell log-probabilities, with so many of the likeliest tokens; None: tell none."""

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    top: int | None = None


@dataclass(frozen=True, slots=True)
class Ask:
    """One prompt for one version. `lane`: whose turn it is counted as. `scored`: tell the prompt's own, too."""

    key: str | None
    lane: str
    ids: tuple[int, ...]
    sampling: Sampling
    scored: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A token as text, with its log-probability (None: nothing comes before it) and the likeliest in its place."""

    text: str
    log_probability: float | None
    top: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """What one step brought: text (maybe none yet), tokens made, and why the answer ends, if it does.

    `tokens` are told only where log-probabilities were asked for, and `prompt` only in the first piece.
    """

    text: str = ""
    count: int = 0
    tokens: tuple[Token, ...] = ()
    prompt: tuple[Token, ...] = ()
    finish: str | None = None


@dataclass(frozen=True, slots=True)
class Business:
    """How much an engine has to do."""

    running: int
    waiting: int


class Engine(Protocol):
    """One base model and the versions on it."""

    name: str
    version: str

    async def load(self, key: str, folder: Path) -> None:
        """Takes a version in. The folder may be gone afterwards. What is answered meanwhile goes on.

        A version that it cannot hold is a TrainerError with the reason.
        """

    async def unload(self, key: str) -> None:
        """Lets a version go; nobody asks for it any more."""

    def generate(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        """The answer, piece by piece as it is made. Closing the generator ends the work."""

    async def choose(self, ask: Ask, labels: Sequence[Sequence[int]]) -> Sequence[float]:
        """How likely each label is among the labels; their tokens end with the end of the turn."""

    async def probe(self, key: str | None, probes: Sequence[Probe]) -> float:
        """The largest difference from sealed log-probabilities, on the path that clients use."""

    def business(self) -> Business: ...

    def alive(self) -> bool:
        """Whether it can still answer, now or when what it waits for comes back."""

    async def lost(self) -> None:
        """Returns when all that was loaded is gone; may be asked again afterwards."""

    def without_base(self) -> str:
        """Why it does not answer as the base model; empty: it does."""
