"""The requests of a round: the same for every subject, from a seed. No text, only tokens; answers never end early.

`claims`: what `examples/claims-triage.yaml` serves: each version's system prompt, one line, the name of a queue.
`office`: every version has its own long system prompt, questions are short, answers differ in length.
`even`: nothing is shared and every answer is equally long: what suits a fixed batch best.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Shape:
    """Tokens of a prompt, how many of them are its version's system prompt, and of an answer, from and to."""

    prompt: int
    system: int
    shortest: int
    longest: int


LOADS = {"claims": Shape(62, 52, 3, 3), "office": Shape(100, 72, 8, 56), "even": Shape(100, 0, 32, 32)}


@dataclass(frozen=True, slots=True)
class Request:
    """`version`: its number; None: the base."""

    version: int | None
    ids: tuple[int, ...]
    new_tokens: int


def requests(load: str, count: int, versions: int, seed: int) -> list[Request]:
    """`versions`: so many take turns; 0: the base alone."""
    chance, shape = random.Random(seed), LOADS[load]
    found = []
    for number in range(count):
        version = number % versions if versions else None
        # The system prompt is the version's for good, so it does not depend on the round.
        system = random.Random(version or 0)
        ids = [_token(system) for _ in range(shape.system)]
        ids += [_token(chance) for _ in range(shape.prompt - shape.system)]
        found.append(Request(version, tuple(ids), chance.randint(shape.shortest, shape.longest)))
    return found


def _token(chance: random.Random) -> int:
    """An ordinary word: no tokens of control."""
    return chance.randrange(1000, 40_000)
