"""A row as it stands in its file, before anything is known of its meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from topcoat_trainer.data.problem import Problem


@dataclass(frozen=True, slots=True)
class Row:
    """`number` is the line (text files), the element (JSON) or the row (Parquet), from 1. One of the others is set."""

    number: int
    value: dict[str, Any] | None = None
    problem: Problem | None = None
