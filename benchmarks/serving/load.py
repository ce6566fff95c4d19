"""The requests of a round: the same for every subject, from a seed. No text, only tokens; answers never end early.

`office`: every version has its own long system prompt, questions are short, answers differ in length: what companies
send. `even`: nothing is shared and every answer is equally long: what suits a fixed batch best.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PROMPT_TOKENS, SYSTEM_TOKENS = 100, 72
NEW_TOKENS, SHORTEST_TOKENS, LONGEST_TOKENS = 32, 8, 56
LOADS = ("office", "even")


@dataclass(frozen=True, slots=True)
class Request:
    """`version`: its number; None: the base."""

    version: int | None
    ids: tuple[int, ...]
    new_tokens: int


def requests(load: str, count: int, versions: int, seed: int) -> list[Request]:
    """`versions`: so many take turns; 0: the base alone."""
    chance = random.Random(seed)
    found = []
    for number in range(count):
        version = number % versions if versions else None
        shared = SYSTEM_TOKENS if load == "office" else 0
        # The system prompt is the version's for good, so it does not depend on the round.
        system = random.Random(version or 0)
        ids = [_token(system) for _ in range(shared)] + [_token(chance) for _ in range(PROMPT_TOKENS - shared)]
        new = chance.randint(SHORTEST_TOKENS, LONGEST_TOKENS) if load == "office" else NEW_TOKENS
        found.append(Request(version, tuple(ids), new))
    return found


def _token(chance: random.Random) -> int:
    """An ordinary word: no tokens of control."""
    return chance.randrange(1000, 40_000)
