"""The claims-triage data: diagnoses in the words of ICD-10-CM, each with the department of an insurer it belongs to.

The text comes from the package simple-icd-10-cm and is never kept in this repository. Decides the split itself:
a family (three-character code) lies wholly in training or wholly in the held-out rows. Pure Python, no tensor.
"""

from __future__ import annotations

import itertools
import random
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from topcoat_trainer.demo import rows
from topcoat_trainer.errors import DataError


@dataclass(frozen=True, slots=True)
class Queue:
    """A department and the three-character codes, first to last, whose claims it handles."""

    name: str
    first: str
    last: str

    def holds(self, family: str) -> bool:
        return self.first <= family <= self.last


@dataclass(frozen=True, slots=True)
class Claim:
    """One phrase, the queue that is right for it, and the code family that must not straddle the split."""

    text: str
    queue: str
    family: str


@dataclass(frozen=True, slots=True)
class Sizes:
    """Rows per queue, and the share of its families that is held out."""

    train: int = 60
    heldout: int = 26
    more: int = 40
    heldout_families: float = 0.3


DEFAULT_SIZES = Sizes()


@dataclass(frozen=True, slots=True)
class ClaimsData:
    """Training rows, more training rows of the same families, and held-out rows of other families."""

    train: tuple[Claim, ...]
    more: tuple[Claim, ...]
    heldout: tuple[Claim, ...]


QUEUES = (
    Queue("cancer", "C00", "D49"),
    Queue("mental", "F01", "F99"),
    Queue("eyes", "H00", "H59"),
    Queue("heart", "I00", "I99"),
    Queue("lungs", "J00", "J99"),
    Queue("digestion", "K00", "K95"),
    Queue("skin", "L00", "L99"),
    Queue("joints", "M00", "M99"),
    Queue("kidneys", "N00", "N53"),
    Queue("pregnancy", "O00", "O9A"),
    Queue("injuries", "S00", "T34"),
    Queue("traffic", "V00", "V99"),
)
QUEUE_NAMES = tuple(sorted(queue.name for queue in QUEUES))
SYSTEM = f"Sort the insurance claim into one of these queues: {', '.join(QUEUE_NAMES)}. Answer with its name only."

FILES = ("claims-train.jsonl", "claims-heldout.jsonl", "claims-shuffled.jsonl", "claims-more.jsonl")

_CODE = re.compile(r"\b[A-Z]\d[0-9A-Z]")
_ASIDE = re.compile(r"\[[^\]]*\]|\([^)]*\)|,?\s*\bNOS\b")
_DANGLING = frozenset({"and", "by", "for", "in", "of", "or", "the", "to", "with"})
_MIN_WORDS, _MAX_WORDS = 2, 12


def phrase(term: str) -> str | None:
    """An inclusion term as a person would write it, or None where it is not one (other codes, half a sentence)."""
    if _CODE.search(term):
        return None
    text = " ".join(_ASIDE.sub(" ", term).split()).replace(" ,", ",").strip(" ,;")
    words = text.split()
    whole = bool(words) and words[-1] not in _DANGLING
    return text if whole and _MIN_WORDS <= len(words) <= _MAX_WORDS else None


def pool() -> list[Claim]:
    """Every usable claim, in the order of the codes. A phrase that stands under two queues belongs to none."""
    found: dict[str, list[Claim]] = defaultdict(list)
    for code, term in _terms():
        family = code[:3]
        queue = next((queue.name for queue in QUEUES if queue.holds(family)), None)
        text = phrase(term)
        if queue is not None and text is not None:
            found[text.casefold()].append(Claim(text, queue, family))
    return [claims[0] for claims in found.values() if len({claim.family for claim in claims}) == 1]


def _terms() -> Iterator[tuple[str, str]]:
    try:
        with warnings.catch_warnings():
            # The package reads its own data with a call that Python 3.11 alone warns about.
            warnings.simplefilter("ignore", DeprecationWarning)
            import simple_icd_10_cm as icd
    except ImportError as error:
        raise DataError(
            "the package simple-icd-10-cm, which holds the text of the claims, is not installed",
            hint="install Topcoat with its `demo` extra",
        ) from error
    for code in icd.get_all_codes():
        if icd.is_category_or_subcategory(code) and not icd.is_extended_subcategory(code):
            for term in icd.get_inclusion_term(code):
                yield code, term


def choose(claims: list[Claim], seed: int = 0, sizes: Sizes = DEFAULT_SIZES) -> ClaimsData:
    """A balanced choice of claims: every queue gives as many, and every family of a side about as many as the next."""
    train: list[Claim] = []
    more: list[Claim] = []
    heldout: list[Claim] = []
    for name in QUEUE_NAMES:
        dice = random.Random(f"{seed}/{name}")
        families = _shuffled_families([claim for claim in claims if claim.queue == name], dice)
        border = round(len(families) * sizes.heldout_families)
        held, rest = _in_turns(families[:border]), _in_turns(families[border:])
        if len(held) < sizes.heldout or len(rest) < sizes.train:
            raise DataError(f"queue {name} has {len(rest)} claims to learn and {len(held)} to hold out: too few")
        heldout += held[: sizes.heldout]
        train += rest[: sizes.train]
        more += rest[sizes.train : sizes.train + sizes.more]
    dice = random.Random(f"{seed}/order")
    for part in (train, more, heldout):
        dice.shuffle(part)
    return ClaimsData(tuple(train), tuple(more), tuple(heldout))


def _shuffled_families(claims: list[Claim], dice: random.Random) -> list[list[Claim]]:
    """The claims by family, the families in random order, and each family's claims too."""
    families: dict[str, list[Claim]] = defaultdict(list)
    for claim in claims:
        families[claim.family].append(claim)
    shuffled = list(families.values())
    dice.shuffle(shuffled)
    for family in shuffled:
        dice.shuffle(family)
    return shuffled


def _in_turns(families: list[list[Claim]]) -> list[Claim]:
    """One claim of each family, then a second of each, and so on: no large family speaks for its queue."""
    turns = itertools.zip_longest(*families)
    return [claim for turn in turns for claim in turn if claim is not None]


def with_wrong_queues(claims: tuple[Claim, ...], seed: int = 0) -> tuple[Claim, ...]:
    """The same claims with half of them in a queue that is surely wrong: a data set that should be rejected."""
    dice = random.Random(f"{seed}/wrong")
    spoilt = set(dice.sample(range(len(claims)), len(claims) // 2))
    return tuple(
        Claim(claim.text, dice.choice([name for name in QUEUE_NAMES if name != claim.queue]), claim.family)
        if index in spoilt
        else claim
        for index, claim in enumerate(claims)
    )


def row(claim: Claim) -> rows.ChatRow:
    return rows.chat_row(SYSTEM, claim.text, claim.queue, family=claim.family)


def write(directory: Path, seed: int = 0) -> dict[str, int]:
    """Writes the four files of the demo; says how many rows each holds."""
    data = choose(pool(), seed)
    parts = (data.train, data.heldout, with_wrong_queues(data.train, seed), data.train + data.more)
    named = zip(FILES, parts, strict=True)
    return {name: rows.write(directory / name, map(row, part)) for name, part in named}
