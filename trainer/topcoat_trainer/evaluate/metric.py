"""What an answer is worth beside the right one. Pure: strings and numbers in, numbers out; higher is better.

Free answers are compared after `normal`: outer white space, letter case, one pair of outer quotes and closing
punctuation do not count, and runs of white space are one blank. JSON objects are compared as values, so the order of
keys and the layout do not count.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

CLOSING = ".,;:!?"
QUOTES = ('""', "''", "``", "“”", "‘’", "«»")
WORD = re.compile(r"\w+", re.UNICODE)
# A longest common subsequence takes the product of both lengths; beyond this an answer is cut.
WORDS_AT_MOST = 2000


def normal(text: str) -> str:
    """The part of a free answer that counts."""
    bare = " ".join(text.split()).casefold().rstrip(CLOSING).rstrip()
    if len(bare) > 1 and bare[0] + bare[-1] in QUOTES:
        bare = bare[1:-1].strip().rstrip(CLOSING).rstrip()
    return bare


def exact_match(answer: str, expected: str) -> float:
    """1 if both say the same: equal JSON objects, or equal text after `normal`."""
    wanted = json_object_or_none(expected)
    if wanted is not None:
        return float(json_object_or_none(answer) == wanted)
    return float(normal(answer) == normal(expected))


def words(text: str) -> list[str]:
    return WORD.findall(text.casefold())[:WORDS_AT_MOST]


def token_f1(answer: str, expected: str) -> float:
    """F1 of the words that both have, repeats counted, order not: for free text."""
    found, wanted = words(answer), words(expected)
    if not found or not wanted:
        return float(found == wanted)
    return _f1(sum((Counter(found) & Counter(wanted)).values()), len(found), len(wanted))


def rouge_l(answer: str, expected: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words, so order counts."""
    found, wanted = words(answer), words(expected)
    if not found or not wanted:
        return float(found == wanted)
    return _f1(_common_subsequence(found, wanted), len(found), len(wanted))


def _f1(shared: int, found: int, wanted: int) -> float:
    return 2 * shared / (found + wanted)


def _common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    row = [0] * (len(right) + 1)
    for word in left:
        diagonal = 0
        for place, other in enumerate(right, start=1):
            diagonal, row[place] = row[place], (diagonal + 1 if word == other else max(row[place], row[place - 1]))
    return row[-1]


def json_object_or_none(text: str) -> dict[str, Any] | None:
    """The object that an answer is as a whole; text around it, or a number JSON does not know, makes it none."""
    try:
        value = json.loads(text.strip(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def json_valid(answer: str) -> float:
    """1 if the answer is one JSON object."""
    return float(json_object_or_none(answer) is not None)


def field_accuracy(answer: str, expected: str) -> float:
    """Share of the fields in either object that stand in both with equal values (text after `normal`)."""
    wanted, found = json_object_or_none(expected), json_object_or_none(answer)
    if wanted is None:
        return exact_match(answer, expected)
    if found is None:
        return 0.0
    names = wanted.keys() | found.keys()
    if not names:
        return 1.0
    return sum(name in wanted and name in found and _same(found[name], wanted[name]) for name in names) / len(names)


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return normal(found) == normal(wanted)
    return type(found) is type(wanted) and bool(found == wanted)


def macro_f1(answers: Sequence[str], expected: Sequence[str], labels: Sequence[str]) -> float:
    """Mean over the labels of each label's F1: for classification. A label that neither side has is left out."""
    right = Counter(a for a, b in zip(answers, expected, strict=True) if a == b)
    said, were = Counter(answers), Counter(expected)
    present = [label for label in labels if said[label] + were[label]]
    return (
        math.fsum(_f1(right[label], said[label], were[label]) for label in present) / len(present) if present else 0.0
    )


def label_or_none(answer: str, labels: Sequence[str]) -> str | None:
    """The label that a free answer is, after `normal`; an answer with anything more is none of them."""
    return {normal(label): label for label in labels}.get(normal(answer))


def letters(text: str) -> str:
    """Letters and digits of an answer: what `normal` takes away is none of them."""
    return "".join(sign for sign in text.casefold() if sign.isalnum())


def may_become(answer: str, wanted: frozenset[str]) -> bool:
    """Whether an answer that goes on may still be one of the wanted texts, whose `letters` are given."""
    begun = letters(answer)
    return any(one.startswith(begun) for one in wanted)


def perplexity(loss: float) -> float:
    """E to the mean loss; infinite where that does not fit a number."""
    return math.exp(loss) if loss < 700 else math.inf
