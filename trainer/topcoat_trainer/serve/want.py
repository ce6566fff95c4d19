"""What a request asks of the model for one step, and what it gets: the words between answers and computers.

An answer is a generator: it yields a Want, perhaps with something to say, and is sent what was Found. A computer takes
the wants of all running answers together. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

SCORED_TOKENS = 256
"""Tokens whose logits are held at once: a whole prompt's would not fit beside a large vocabulary."""


class Row(Protocol):
    """One text that grows. `ids`: all of it; what was not read yet is read at the next want."""

    ids: list[int]

    def close(self) -> None:
        """Nobody asks for it any more: its memory is free."""


@dataclass(slots=True)
class Want:
    """The logits behind a row's last token, once all is read.

    `every`: those behind all tokens instead, in parts as they are read. `branches`: those behind every token of some
    continuations, each for itself, which the row forgets again; together they are at most SCORED_TOKENS.
    """

    row: Row
    said: Any = None
    every: bool = False
    branches: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """Logits in fp32, a line for each token, and the likeliest token of each line."""

    logits: torch.Tensor
    likeliest: list[int]


Outcome = Found | Exception | None
"""None: it has to wait, or is not read to its end yet."""


class Computer(Protocol):
    """Holds a base model and versions, and computes. Belongs to one thread."""

    def load(self, key: str, folder: Path) -> None: ...

    def unload(self, key: str) -> None: ...

    def open(self, key: str | None, ids: Sequence[int], *, more: int = 0, whole: bool = False) -> Row:
        """A new text. `more`: how many tokens may follow. `whole`: the logits of all its tokens will be asked for."""

    def compute(self, wants: Sequence[Want]) -> list[Outcome]:
        """One step for all; the eldest want comes first."""
