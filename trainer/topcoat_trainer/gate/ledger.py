"""What was asked before: subjects' answers by what they depend on, and how often held-out rows have judged.

A kill repeats no finished subject; the base model is asked once for the same rows, whatever the number of runs.
May be thrown away: it only saves time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from topcoat_trainer import files
from topcoat_trainer.errors import Corrupt
from topcoat_trainer.gate.exam import Answers, Exam

FORMAT = 1
WEIGHTS = ("adapter_model.safetensors", "adapter_config.json", "tail.safetensors", "tail_config.json")


def artifact_digest(directory: Path | None) -> str | None:
    """SHA-256 over the exported weights and their configuration; None for the base model itself."""
    if directory is None:
        return None
    found = {name: files.sha256(directory / name) for name in WEIGHTS if (directory / name).is_file()}
    return files.sha256_of_bytes(files.json_bytes(found))


def exam_digest(asked: Exam) -> str:
    """SHA-256 over all that is asked: tokens, labels, limits."""
    return files.sha256_of_bytes(
        files.json_bytes(
            {
                "format": FORMAT,
                "kind": asked.kind,
                "rows": [[row.example.row, list(row.ids), [int(flag) for flag in row.trained]] for row in asked.rows],
                "prompts": [list(prompt) for prompt in asked.prompts],
                "labels": asked.labels,
                "labelIds": sorted({str(ids) for ids in asked.label_ids}),
                "ends": sorted(asked.stop.ends),
                "maxTokens": asked.stop.max_tokens,
                "free": asked.free,
                "scored": asked.scored,
                "brief": asked.brief,
            }
        )
    )


class Ledger:
    """Answers kept in one folder, a file each."""

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """`facts`: all that every answer depends on (base digest, dtype, libraries)."""
        self.folder = folder
        self.facts = dict(facts)
        folder.mkdir(parents=True, exist_ok=True)

    def _path(self, asked: Exam, artifact: str | None) -> Path:
        key = files.json_bytes({**self.facts, "artifact": artifact, "exam": exam_digest(asked)})
        return self.folder / f"answers-{files.sha256_of_bytes(key)[:40]}.json"

    def find(self, asked: Exam, artifact: str | None) -> Answers | None:
        """Answers given before; a file that cannot be read is none."""
        path = self._path(asked, artifact)
        with contextlib.suppress(FileNotFoundError, Corrupt, KeyError, TypeError, ValueError, AttributeError):
            answers = Answers.from_json(files.read_json(path))
            if answers.rows == [row.example.row for row in asked.rows]:
                return answers
        return None

    def keep(self, asked: Exam, artifact: str | None, answers: Answers) -> None:
        files.write_json(self._path(asked, artifact), answers.as_json())

    def uses(self, rows_digest: str, artifact: str | None) -> int:
        """How many candidates these held-out rows have judged, this one included and none counted twice."""
        path = self.folder / f"uses-{files.sha256_of_bytes(rows_digest.encode())[:40]}.json"
        judged: list[str] = []
        with contextlib.suppress(FileNotFoundError, Corrupt):
            judged = [str(digest) for digest in files.read_json(path)]
        if str(artifact) not in judged:
            judged.append(str(artifact))
            files.write_json(path, judged)
        return len(judged)
