"""How the versions behind an alias answer, counted while one of them is watched. Counts only: no text, no client."""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field

from topcoat.api import server
from topcoat_trainer.serve.alias import Tag

TAIL_CHARACTERS = 240
# A word or phrase of up to 60 characters, four times or more, up to the end.
LOOP = re.compile(r"(.{1,60}?)\1{3,}\Z", re.DOTALL)


@dataclass(slots=True)
class Answer:
    """What was said so far, as far as it takes to see that it is nothing, or nothing new."""

    spoken: bool = False
    tail: str = ""
    finish: str | None = None

    def add(self, text: str, finish: str | None) -> None:
        self.spoken = self.spoken or bool(text.strip())
        self.tail = (self.tail + text)[-TAIL_CHARACTERS:]
        self.finish = finish or self.finish

    @property
    def empty(self) -> bool:
        """No text at all, or the same again and again until there was no more room."""
        return not self.spoken or (self.finish == "length" and bool(LOOP.search(self.tail)))


@dataclass(slots=True)
class _Counts:
    requests: int = 0
    failed: int = 0
    empty: int = 0
    latency: list[int] = field(default_factory=lambda: [0] * (len(server.LATENCY_SECONDS) + 1))


class Traffic:
    """Counts of each watched alias. They begin anew when another version is watched."""

    def __init__(self) -> None:
        self._watched: dict[str, str] = {}
        self._counts: dict[str, dict[str, _Counts]] = {}

    def follow(self, file: server.AliasFile) -> None:
        """What is in force for an alias now."""
        if file.watched is None:
            self.drop(file.alias)
        elif self._watched.get(file.alias) != file.watched:
            self._watched[file.alias], self._counts[file.alias] = file.watched, {}

    def drop(self, alias: str) -> None:
        self._watched.pop(alias, None)
        self._counts.pop(alias, None)

    def note(self, alias: str, tag: Tag, code: int, seconds: float, answer: Answer) -> None:
        """A request ended. What was wrong in itself, or was broken off by its client, says nothing of the version."""
        versions = self._counts.get(alias)
        if versions is None or (code != 200 and code < 500):
            return
        counts = versions.setdefault(tag.version, _Counts())
        counts.requests += 1
        if code != 200:
            counts.failed += 1
            return
        counts.empty += answer.empty
        counts.latency[bisect.bisect_left(server.LATENCY_SECONDS, seconds)] += 1

    def of(self, alias: str) -> tuple[server.Traffic, ...]:
        """Empty while nothing is watched."""
        return tuple(
            server.Traffic(
                version=version,
                requests=counts.requests,
                failed=counts.failed,
                empty=counts.empty,
                latency=tuple(counts.latency),
            )
            for version, counts in sorted(self._counts.get(alias, {}).items())
        )
