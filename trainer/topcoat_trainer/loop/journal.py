"""metrics.jsonl: one JSON object per optimizer step, cut back to the checkpoint's step when a run is resumed.

Numbers only; never a row's text.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, TextIO

from topcoat.api.report import CurvePoint
from topcoat_trainer import files


def _lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a line that a kill cut short is left out."""
    lines: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                lines.append(json.loads(line))
    return lines


class Journal:
    """The open file of a running loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def rewind(self, step: int) -> None:
        """Forgets every line after this step, at once, and goes on from there."""
        self.close()
        kept = [line for line in _lines(self.path) if line["step"] <= step]
        files.write_bytes(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        with files.storing(self.path):
            assert self._file is not None, "rewind() opens the journal"  # noqa: S101 - a slip of ours, not of a user
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Durable, so that no checkpoint is newer than the lines of its steps."""
        with files.storing(self.path):
            if self._file is not None:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def curve(path: Path, points: int = 200) -> list[CurvePoint]:
    """The learning curve: at most so many steps evenly spaced, and every step with a held-out loss."""
    lines = _lines(path)
    stride = max(1, -(-len(lines) // points))
    return [
        CurvePoint(
            step=line["step"],
            epoch=line["epoch"],
            loss=line["loss"],
            holdout_loss=line.get("holdoutLoss"),
            learning_rate=line["learningRate"],
        )
        for index, line in enumerate(lines)
        if index % stride == 0 or index == len(lines) - 1 or "holdoutLoss" in line
    ]
