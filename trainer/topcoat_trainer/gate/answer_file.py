"""answers.jsonl: what every subject answered to every held-out row, so that versions can be compared later.

It is the tenant's data and stays in the version's folder on the tenant's volume. Never imports torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topcoat_trainer import files
from topcoat_trainer.gate.exam import Answers
from topcoat_trainer.gate.table import Heldout, asked_text

NAME = "answers.jsonl"


def write(directory: Path, heldout: Heldout, answers: Mapping[str, Answers]) -> Path:
    """One line per row: number, digest, question, right answer, and by subject label, text and loss."""
    by_subject = {subject: _by_place(heldout, given) for subject, given in answers.items()}
    lines = []
    for place, example in enumerate(heldout.examples):
        given = {subject: rows[place] for subject, rows in by_subject.items() if place in rows}
        line = {
            "row": example.row,
            "digest": example.digest,
            "prompt": asked_text(example),
            "expected": example.completion if example.text is None else "",
            "answers": given,
        }
        lines.append(json.dumps(line, ensure_ascii=False, sort_keys=True) + "\n")
    path = directory / NAME
    files.write_bytes(path, "".join(lines).encode("utf-8", "surrogatepass"))
    return path


def _by_place(heldout: Heldout, answers: Answers) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for local, place in enumerate(heldout.places(answers)):
        row: dict[str, Any] = {}
        if answers.labels:
            row["label"] = answers.labels[local]
        if local in answers.free:
            row["text"] = answers.free[local]
        if answers.losses:
            row["loss"] = round(answers.losses[local], 6)
        found[place] = row
    return found
