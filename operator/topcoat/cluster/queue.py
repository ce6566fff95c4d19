"""Keys that must be looked at: each once, soon or later, by one worker at a time, fresh ones first.

A key that fails comes back after a growing wait. Knows no object and no cluster; the clock is asyncio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
from collections import deque
from typing import NamedTuple

FIRST_WAIT_SECONDS = 0.2
LONGEST_WAIT_SECONDS = 60.0


class Key(NamedTuple):
    """One object."""

    kind: str
    namespace: str
    name: str


class Queue:
    """`add` marks a key, `take` gives one out, `done` ends its turn; a key marked meanwhile comes again."""

    def __init__(self) -> None:
        self._ready: tuple[deque[Key], deque[Key]] = (deque(), deque())
        self._marked: dict[Key, int] = {}
        self._busy: set[Key] = set()
        self._later: list[tuple[float, int, Key]] = []
        self._due: dict[Key, float] = {}
        self._failures: dict[Key, int] = {}
        self._count = itertools.count()
        self._wake = asyncio.Event()
        self.oldest: dict[Key, float] = {}
        """When a key that still waits was first marked."""

    def add(self, key: Key, *, first: bool = False) -> None:
        """Marks a key; `first`: before all that is only to be brought up to date."""
        known = self._marked.get(key)
        wanted = 0 if first else 1
        if known is not None and known <= wanted:
            return
        self._marked[key] = wanted
        self.oldest.setdefault(key, _now())
        if key not in self._busy:
            self._ready[wanted].append(key)
            self._wake.set()

    def add_later(self, key: Key, seconds: float) -> None:
        """Marks a key after a while; an earlier time that was set before holds."""
        due = _now() + max(0.0, seconds)
        if self._due.get(key, float("inf")) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._later, (due, next(self._count), key))
        self._wake.set()

    def add_soon(self, key: Key, seconds: float) -> None:
        """Marks a key after a moment, so that one look does for all that comes meanwhile; a key that waits for its
        turn already will see it then.
        """
        if key not in self._marked:
            self.add_later(key, seconds)

    def failed(self, key: Key, at_least_seconds: float = 0.0) -> float:
        """Marks a key again after its turn failed; says when."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        wait = max(at_least_seconds, min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(count, 12)))
        self.add_later(key, wait)
        return wait

    def succeeded(self, key: Key) -> None:
        self._failures.pop(key, None)

    async def take(self) -> Key:
        """The next key; its turn lasts until `done`."""
        while True:
            self._ripen()
            for line, waiting in enumerate(self._ready):
                while waiting:
                    key = waiting.popleft()
                    if self._marked.get(key) == line and key not in self._busy:
                        del self._marked[key]
                        self.oldest.pop(key, None)
                        self._busy.add(key)
                        return key
            self._wake.clear()
            await self._sleep()

    def done(self, key: Key) -> None:
        self._busy.discard(key)
        if key in self._marked:
            self._ready[self._marked[key]].append(key)
            self._wake.set()

    def _ripen(self) -> None:
        now = _now()
        while self._later and self._later[0][0] <= now:
            due, _, key = heapq.heappop(self._later)
            if self._due.get(key) == due:
                del self._due[key]
                self.add(key)

    async def _sleep(self) -> None:
        left = self._later[0][0] - _now() if self._later else None
        with contextlib.suppress(TimeoutError):
            # Not `wait_for`: that may lose a cancellation which comes together with the event.
            async with asyncio.timeout(left):
                await self._wake.wait()

    def __len__(self) -> int:
        return len(self._marked)

    def age_seconds(self) -> float:
        """How long the oldest key waits."""
        return _now() - min(self.oldest.values()) if self.oldest else 0.0


def _now() -> float:
    return asyncio.get_running_loop().time()
