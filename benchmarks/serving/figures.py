"""What one round of one subject is measured by, and medians over rounds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: seconds from its sending to its first token; how many tokens were answered."""

    first_seconds: float
    tokens: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A round. `tokens_per_second`: of answers. `memory_mib`: of the process after the round."""

    subject: str
    versions: int
    load: str
    requests: int
    seconds: float
    tokens_per_second: float
    first_token_median_seconds: float
    first_token_p95_seconds: float
    memory_mib: float


def figures(name: tuple[str, int, str], answers: Sequence[Answered], seconds: float, memory_mib: float) -> Figures:
    subject, versions, load = name
    firsts = sorted(answer.first_seconds for answer in answers)
    return Figures(
        subject,
        versions,
        load,
        len(answers),
        seconds,
        sum(answer.tokens for answer in answers) / seconds,
        statistics.median(firsts),
        firsts[min(len(firsts) - 1, int(0.95 * len(firsts)))],
        memory_mib,
    )


def median(rounds: Sequence[Figures]) -> Figures:
    """The middle of each figure by itself."""
    rows = [asdict(found) for found in rounds]
    middle = {
        name: statistics.median(row[name] for row in rows) if isinstance(value, float) else value
        for name, value in rows[0].items()
    }
    return Figures(**middle)


def memory_mib(process: int | str = "self") -> float:
    """The memory of a process that is its own, and not a file's in the page cache."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return 0.0
