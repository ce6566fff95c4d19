"""The claims-extraction data: a claim in plain words, and the same claim as JSON. Made up, seeded, ours (CC0).

Held-out rows are made of other names, other events and other sentences than training rows. No tensor.
"""

from __future__ import annotations

import datetime
import json
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from topcoat_trainer.demo import phrases, rows

FILES = ("extraction-train.jsonl", "extraction-heldout.jsonl")
TRAIN_ROWS, HELDOUT_ROWS = 400, 100
SYSTEM = "Extract the claim as JSON with the keys claimant, policy, date, peril and amount."
_FIRST_DAY, _DAYS = datetime.date(2023, 1, 1), 3 * 365


@dataclass(frozen=True, slots=True)
class Loss:
    """What the text must give away. `date` is ISO 8601; `amount` is in whole dollars."""

    claimant: str
    policy: str
    date: str
    peril: str
    amount: int

    def as_json(self) -> str:
        return json.dumps(asdict(self), separators=(", ", ": "))


def example(bank: phrases.Bank, dice: random.Random) -> tuple[str, Loss]:
    """One text and what is to be found in it."""
    day = _FIRST_DAY + datetime.timedelta(days=dice.randrange(_DAYS))
    peril = dice.choice(sorted(bank.perils))
    loss = Loss(
        claimant=f"{dice.choice(bank.first_names)} {dice.choice(bank.last_names)}",
        policy=f"{dice.choice(bank.letters)}-{dice.randrange(1000, 10000)}",
        date=day.isoformat(),
        peril=peril,
        amount=dice.randrange(8, 900) * 10,
    )
    text = dice.choice(bank.layouts).format(
        name=loss.claimant,
        policy=loss.policy,
        date=_date_in_words(day, dice),
        event=dice.choice(bank.perils[peril]),
        amount=dice.choice((f"{loss.amount:,} dollars", f"${loss.amount:,}", f"USD {loss.amount}")),
    )
    return text[0].upper() + text[1:], loss


def _date_in_words(day: datetime.date, dice: random.Random) -> str:
    month = _MONTHS[day.month - 1]
    return dice.choice((f"{day.day} {month} {day.year}", f"{month} {day.day}, {day.year}", day.isoformat()))


# Not strftime: it speaks the language that the machine is set to.
_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


def examples(bank: phrases.Bank, wanted: int, seed: str) -> list[tuple[str, Loss]]:
    """So many texts, no two of them alike."""
    dice = random.Random(seed)
    found: dict[str, Loss] = {}
    while len(found) < wanted:
        text, loss = example(bank, dice)
        found.setdefault(text, loss)
    return list(found.items())


def write(directory: Path, seed: int = 0) -> dict[str, int]:
    """Writes the two files; says how many rows each holds."""
    parts = (
        examples(phrases.LEARN, TRAIN_ROWS, f"{seed}/learn"),
        examples(phrases.JUDGE, HELDOUT_ROWS, f"{seed}/judge"),
    )
    return {
        name: rows.write(directory / name, (rows.chat_row(SYSTEM, text, loss.as_json()) for text, loss in made))
        for name, made in zip(FILES, parts, strict=True)
    }
