"""Keys and values of texts that were read before, page by page, by what the tokens are: prefixes that others share.

A page's frozen layers are kept once for the base and all versions, a version's own layers once for each. Bounded; what
was not used for the longest time goes first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from topcoat_trainer.serve.shelf import Place

PAGE_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Side:
    """Who reads: a version's key and its first own layer. The base has no layer of its own."""

    key: str | None
    boundary: int


@dataclass(frozen=True, slots=True)
class Page:
    """Keys and values of some layers for PAGE_TOKENS tokens."""

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def layers(self) -> int:
        return int(self.keys.shape[0])

    @property
    def bytes(self) -> int:
        return self.keys.nbytes + self.values.nbytes


def names(ids: Sequence[int], known: list[bytes]) -> list[bytes]:
    """The name of each whole page: a digest of all tokens up to its end. `known` is continued."""
    for page in range(len(known), len(ids) // PAGE_TOKENS):
        text = ",".join(map(str, ids[page * PAGE_TOKENS : (page + 1) * PAGE_TOKENS]))
        known.append(hashlib.sha256((known[-1] if known else b"") + text.encode()).digest())
    return known


class Kept:
    """Pages by name. `room`: whether so many bytes more fit in (it may call `drop`)."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self._pages: OrderedDict[tuple[bytes, str | None], Page] = OrderedDict()
        self.bytes = 0
        self.room: Callable[[int], bool] = lambda _: True

    def __len__(self) -> int:
        return len(self._pages)

    def reach(self, side: Side, pages: Sequence[bytes]) -> int:
        """How many of the pages, from the first one on, are here."""
        for count, name in enumerate(pages):
            if not self._has(side, name):
                return count
        return len(pages)

    def _has(self, side: Side, name: bytes) -> bool:
        trunk = self._pages.get((name, None))
        enough = trunk is not None and trunk.layers >= side.boundary
        return enough and (side.key is None or (name, side.key) in self._pages)

    def fetch(self, side: Side, pages: Sequence[bytes], first: int, place: Place) -> None:
        """Copies pages from number `first` on into a place."""
        for number in range(first, len(pages)):
            tokens = slice(number * PAGE_TOKENS, (number + 1) * PAGE_TOKENS)
            self._put(self._pages[pages[number], None], slice(0, side.boundary), tokens, place)
            if side.key is not None:
                own = slice(side.boundary, self._layers)
                self._put(self._pages[pages[number], side.key], own, tokens, place)
        place.used = max(place.used, len(pages) * PAGE_TOKENS)
        self.touch(side, pages)

    @staticmethod
    def _put(page: Page, layers: slice, tokens: slice, place: Place) -> None:
        count = layers.stop - layers.start
        place.shelf.keys[layers, place.index, :, tokens] = page.keys[:count]
        place.shelf.values[layers, place.index, :, tokens] = page.values[:count]

    def touch(self, side: Side, pages: Sequence[bytes]) -> None:
        """They were used now. A page is of no use without those before it, so the first one goes last."""
        for name in reversed(pages):
            for entry in ((name, side.key), (name, None)):
                if entry in self._pages:
                    self._pages.move_to_end(entry)

    def keep(self, side: Side, name: bytes, number: int, place: Place) -> None:
        """A page of a place, if it is not here already and there is room."""
        tokens = slice(number * PAGE_TOKENS, (number + 1) * PAGE_TOKENS)
        trunk = self._pages.get((name, None))
        if trunk is None or trunk.layers < side.boundary:
            self._store((name, None), place, slice(0, side.boundary), tokens)
        if side.key is not None and (name, side.key) not in self._pages:
            self._store((name, side.key), place, slice(side.boundary, self._layers), tokens)

    def _store(self, entry: tuple[bytes, str | None], place: Place, layers: slice, tokens: slice) -> None:
        keys = place.shelf.keys[layers, place.index, :, tokens]
        values = place.shelf.values[layers, place.index, :, tokens]
        if not self.room(keys.nbytes + values.nbytes):
            return
        self._forget(entry)
        self._pages[entry] = page = Page(keys.clone(), values.clone())
        self.bytes += page.bytes

    def _forget(self, entry: tuple[bytes, str | None]) -> None:
        if entry in self._pages:
            self.bytes -= self._pages.pop(entry).bytes

    def drop(self) -> bool:
        """Gives up what was not used for the longest time; False: nothing is left."""
        if not self._pages:
            return False
        self._forget(next(iter(self._pages)))
        return True

    def drop_version(self, key: str) -> None:
        for entry in [entry for entry in self._pages if entry[1] == key]:
            self._forget(entry)
