"""How many requests may be inside, and whether any may come in still. A full house says so at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Full(Exception):
    """As many requests wait as may."""


class Closed(Exception):
    """The server is about to stop."""


class Admission:
    """`most`: requests inside at once, running and waiting together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._empty = asyncio.Event()
        self._empty.set()
        self.draining = False
        """The server shall stop: it asks for no new traffic, but still takes what comes."""
        self.closed = False
        """Nothing new is taken."""

    @contextmanager
    def inside(self) -> Iterator[None]:
        if self.closed:
            raise Closed
        if self._inside >= self._most:
            raise Full
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def emptied(self) -> None:
        """Waits until nobody is inside."""
        await self._empty.wait()
