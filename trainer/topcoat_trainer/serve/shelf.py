"""Where keys and values of running texts lie: shelves of equally long places, which a step reads without copying.

A place holds one text's keys and values of all layers. What lies behind a text's end in its place is always finite:
whatever one version computed can never reach another's answer. Memory is bounded, and shared with the prefixes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

SHORTEST_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Shape:
    """What one token leaves behind in a model."""

    layers: int
    heads: int
    key_size: int
    value_size: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        return self.layers * self.heads * (self.key_size + self.value_size) * self.dtype.itemsize


@dataclass(eq=False, slots=True)
class Place:
    """One text's place. `used`: tokens that were written, whether they count or not."""

    shelf: Shelf
    index: int
    used: int = 0


class Shelf:
    """Places of one length; those in use are the first ones, without a gap."""

    def __init__(self, shape: Shape, length: int) -> None:
        self._shape = shape
        self.length = length
        self.places: list[Place] = []
        self.keys, self.values = self._empty(0)

    @property
    def rows(self) -> int:
        return int(self.keys.shape[1])

    @property
    def row_bytes(self) -> int:
        return self._shape.token_bytes * self.length

    def _empty(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = self._shape
        sizes = (shape.key_size, shape.value_size)
        first, second = (
            torch.zeros(shape.layers, rows, shape.heads, self.length, size, dtype=shape.dtype, device=shape.device)
            for size in sizes
        )
        return first, second

    def resize(self, rows: int) -> None:
        """More rows, or fewer; those in use stay."""
        keys, values = self._empty(rows)
        kept = len(self.places)
        keys[:, :kept] = self.keys[:, :kept]
        values[:, :kept] = self.values[:, :kept]
        self.keys, self.values = keys, values

    def take(self) -> Place:
        place = Place(self, len(self.places))
        self.places.append(place)
        return place

    def free(self, place: Place) -> None:
        """The last place moves into the gap."""
        last = self.places.pop()
        if last is not place:
            self._write(place.index, last, max(place.used, last.used))
            self.places[place.index] = last
            place.index, last.index = last.index, place.index
        self._clear(place.index, max(place.used, last.used))

    def copy(self, source: Place, target: Place) -> None:
        """A text from a place of another shelf into one of this."""
        for own, other in ((self.keys, source.shelf.keys), (self.values, source.shelf.values)):
            own[:, target.index, :, : source.used] = other[:, source.index, :, : source.used]
        target.used = source.used

    def _write(self, index: int, source: Place, tokens: int) -> None:
        for states in (self.keys, self.values):
            states[:, index, :, :tokens] = states[:, source.index, :, :tokens]

    def _clear(self, index: int, tokens: int) -> None:
        for states in (self.keys, self.values):
            states[:, index, :, :tokens] = 0


class Closet:
    """All shelves, within a limit. `spare`: gives back other memory of the limit; False: there is none left."""

    def __init__(self, shape: Shape, limit_bytes: int, slots: int) -> None:
        self._shape = shape
        self._slots = slots
        self._shelves: dict[int, Shelf] = {}
        self.limit_bytes = limit_bytes
        self.other_bytes: Callable[[], int] = lambda: 0
        self.spare: Callable[[], bool] = lambda: False

    @property
    def token_bytes(self) -> int:
        return self._shape.token_bytes

    @property
    def bytes(self) -> int:
        return sum(shelf.rows * shelf.row_bytes for shelf in self._shelves.values())

    def room(self, wanted_bytes: int) -> bool:
        """Whether so much more fits; what is only kept in case is given up for it."""
        while self.bytes + self.other_bytes() + wanted_bytes > self.limit_bytes:
            if not self.spare() and not self._shrink():
                return False
        return True

    def _shrink(self) -> bool:
        """Gives back a shelf's empty rows."""
        for shelf in self._shelves.values():
            if shelf.rows > len(shelf.places):
                shelf.resize(len(shelf.places))
                return True
        return False

    def place_or_none(self, tokens: int) -> Place | None:
        """A place for so many tokens; None: there is no memory now."""
        length = SHORTEST_TOKENS
        while length < tokens:
            length *= 2
        shelf = self._shelves.setdefault(length, Shelf(self._shape, length))
        if len(shelf.places) == shelf.rows and not self._grow(shelf):
            return None
        return shelf.take()

    def _grow(self, shelf: Shelf) -> bool:
        for more in (min(max(1, shelf.rows), self._slots), 1):
            if self.room(more * shelf.row_bytes):
                shelf.resize(shelf.rows + more)
                return True
        return False

    def moved_or_none(self, place: Place, tokens: int) -> Place | None:
        """A longer place with the same text; the old one is free."""
        found = self.place_or_none(tokens)
        if found is not None:
            found.shelf.copy(place, found)
            place.shelf.free(place)
        return found
