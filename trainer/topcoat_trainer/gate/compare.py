"""Two versions row by row, from the answers they were sealed with: `python -m topcoat_trainer.gate.compare OLD NEW`.

Reads answers.jsonl only; loads no model and never imports torch. JSON out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from topcoat_trainer.errors import Corrupt
from topcoat_trainer.evaluate import metric

ANSWERS = "answers.jsonl"
PAIRS_AT_MOST = 20


@dataclass(frozen=True, slots=True)
class Pair:
    """One held-out row and both answers. `gain`: how much better the second is, from -1 to 1."""

    row: int
    prompt: str
    expected: str
    before: str
    after: str
    gain: float


@dataclass(slots=True)
class Difference:
    """Rows that both have judged, and where they differ: the clearest first."""

    rows: int = 0
    better: int = 0
    worse: int = 0
    wins: list[Pair] = field(default_factory=list)
    losses: list[Pair] = field(default_factory=list)


def rows(folder: Path, subject: str = "candidate") -> dict[str, dict[str, Any]]:
    """What a subject answered, by the row's digest."""
    path = folder / ANSWERS
    found: dict[str, dict[str, Any]] = {}
    copies: Counter[str] = Counter()
    try:
        for line in path.read_text(encoding="utf-8", errors="surrogatepass").split("\n"):
            if line:
                row = json.loads(line)
                if subject in row["answers"]:
                    copies[row["digest"]] += 1  # the same row may be held out twice
                    found[f"{row['digest']} {copies[row['digest']]}"] = {**row, **row["answers"][subject]}
    except (ValueError, KeyError, TypeError) as error:
        raise Corrupt("the answers cannot be read", where=str(path)) from error
    return found


def compare(before: Path, after: Path, subjects: tuple[str, str] = ("candidate", "candidate")) -> Difference:
    """What the second got right that the first did not, and the other way round."""
    old, new = rows(before, subjects[0]), rows(after, subjects[1])
    made = Difference()
    pairs = []
    for digest in old.keys() & new.keys():
        made.rows += 1
        gain = _worth(new[digest]) - _worth(old[digest])
        if gain:
            row = new[digest]
            pairs.append(Pair(row["row"], row["prompt"], row["expected"], _said(old[digest]), _said(row), gain))
    pairs.sort(key=lambda pair: (-abs(pair.gain), pair.row))
    made.wins = [pair for pair in pairs if pair.gain > 0]
    made.losses = [pair for pair in pairs if pair.gain < 0]
    made.better, made.worse = len(made.wins), len(made.losses)
    made.wins, made.losses = made.wins[:PAIRS_AT_MOST], made.losses[:PAIRS_AT_MOST]
    return made


def _said(row: dict[str, Any]) -> str:
    return str(row.get("label", row.get("text", "")))


def _worth(row: dict[str, Any]) -> float:
    """How good an answer is: right or wrong for a label, shared fields for JSON, shared words for other text."""
    if "label" in row:
        return metric.exact_match(row["label"], row["expected"])
    if "text" in row:
        measure = metric.field_accuracy if metric.json_valid(row["expected"]) else metric.token_f1
        return measure(row["text"], row["expected"])
    return -float(row.get("loss", 0.0))


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the difference of two versions' folders as JSON."""
    parser = argparse.ArgumentParser(prog="topcoat_trainer.gate.compare", description="Compare two sealed versions.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    sys.stdout.write(json.dumps(asdict(compare(options.before, options.after)), ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
