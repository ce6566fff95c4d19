"""Tokens to text while they are made: whole characters only, and nothing that might be the beginning of a stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF = "\ufffd"
Decode = Callable[[Sequence[int]], str]


class Text:
    """The text of one answer. What `add` and `rest` gave, joined, is the whole answer without its stop."""

    def __init__(self, decode: Decode, stops: Sequence[str] = ()) -> None:
        self._decode = decode
        self._stops = tuple(stops)
        self._ids: list[int] = []
        # Tokens from `start` are decoded together, so that a tokenizer's spaces come out as in the whole text;
        # those before `read` have been told.
        self._start = 0
        self._read = 0
        self._held = ""

    def add(self, token: int) -> tuple[str, bool]:
        """Text that is sure now, and whether a stop was reached."""
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._read])
        now = self._decode(self._ids[self._start :])
        if now.endswith(HALF) or len(now) <= len(before):
            return "", False
        self._start, self._read = self._read, len(self._ids)
        return self._sure(now[len(before) :])

    def rest(self) -> tuple[str, bool]:
        """What was held back, now that no token follows."""
        before = self._decode(self._ids[self._start : self._read])
        now = self._decode(self._ids[self._start :])
        sure, stopped = self._sure(now[len(before) :])
        self._start = self._read = len(self._ids)
        if stopped:
            return sure, True
        held, self._held = self._held, ""
        return sure + held, False

    def _sure(self, new: str) -> tuple[str, bool]:
        text = self._held + new
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return text[: min(found)], True
        kept = self._doubtful(text)
        self._held = text[len(text) - kept :]
        return text[: len(text) - kept], False

    def _doubtful(self, text: str) -> int:
        """How many characters at the end may become a stop."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops if len(stop) > length):
                return length
        return 0
