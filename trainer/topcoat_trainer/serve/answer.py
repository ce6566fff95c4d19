"""Answers as generators of steps: text token by token, shares of labels, the replay of probes.

Each asks its computer for logits (`Want`) and makes words of what it is sent. Runs on the model's thread; knows
neither how the model computes nor who listens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from topcoat.api.report import Probe
from topcoat_trainer.evaluate.choice import Choice
from topcoat_trainer.serve.engine import Ask, Piece, Token
from topcoat_trainer.serve.sampling import Picker
from topcoat_trainer.serve.text import Text
from topcoat_trainer.serve.want import SCORED_TOKENS, Computer, Found, Row, Want

LEAST = -9999.0
"""Minus infinity, as JSON can say it; vLLM's number."""
Labels = Sequence[Sequence[int]]


class NotFinite(Exception):
    """The version's numbers grew beyond all bounds for this text: whatever was drawn from them would be no answer."""


@dataclass(frozen=True, slots=True)
class Words:
    """Tokens as text, and those that end an answer."""

    decode: Callable[..., str]
    ends: frozenset[int]

    def one(self, token: int) -> str:
        return self.decode([token])

    def many(self, ids: Sequence[int]) -> str:
        return self.decode(list(ids), skip_special_tokens=True)


class Answers:
    """Makes the answers of one engine."""

    def __init__(self, computer: Computer, words: Words) -> None:
        self._computer = computer
        self._words = words

    def pieces(self, ask: Ask) -> Generator[Piece | Want, Found, None]:
        """The answer to a prompt."""
        row = self._computer.open(ask.key, ask.ids, more=ask.sampling.max_tokens, whole=ask.scored)
        try:
            scored: list[Token] = []
            found = yield from self._scored(ask, row, scored) if ask.scored else _sure(Want(row))
            if ask.sampling.max_tokens == 0:
                yield Piece(prompt=tuple(scored), finish="length")
                return
            yield from self._drawn(ask, row, found, tuple(scored))
        finally:
            row.close()

    def _drawn(
        self, ask: Ask, row: Row, found: Found, scored: tuple[Token, ...]
    ) -> Generator[Piece | Want, Found, None]:
        picker, text = Picker(ask.sampling), Text(self._words.many, ask.sampling.stop)
        for count in range(1, ask.sampling.max_tokens + 1):
            token = picker.pick(found.logits[-1], found.likeliest[-1])
            piece = self._piece(ask, text, (token, found.logits[-1]), last=count == ask.sampling.max_tokens)
            if count == 1:
                piece = Piece(piece.text, 1, piece.tokens, scored, piece.finish)
            if piece.finish:
                yield piece
                return
            row.ids.append(token)
            found = yield from _sure(Want(row, said=piece))

    def _piece(self, ask: Ask, text: Text, made: tuple[int, torch.Tensor], *, last: bool) -> Piece:
        token, logits = made
        ended = token in self._words.ends
        said, stopped = ("", False) if ended else text.add(token)
        if (ended or last) and not stopped:
            rest, stopped = text.rest()
            said += rest
        top = ask.sampling.top
        tokens = () if top is None else (self._tokens(logits[None], [token], top)[0],)
        finish = "stop" if ended or stopped else "length" if last else None
        return Piece(said, 1, tokens, finish=finish)

    def _scored(self, ask: Ask, row: Row, scored: list[Token]) -> Generator[Want, Found, Found]:
        """The prompt with the log-probability of each of its tokens, part after part."""
        scored.append(Token(self._words.one(ask.ids[0]), None))
        place = 0
        while True:
            found = yield from _sure(Want(row, every=True))
            following = ask.ids[place + 1 : place + 1 + len(found.logits)]
            scored.extend(self._tokens(found.logits[: len(following)], following, ask.sampling.top or 0))
            place += len(found.logits)
            if place >= len(ask.ids):
                return found

    @torch.inference_mode()
    def _tokens(self, logits: torch.Tensor, ids: Sequence[int], top: int) -> list[Token]:
        """Tokens with their log-probabilities, of the model itself: before temperature and top_p."""
        if not ids:
            return []
        table = logits.log_softmax(-1).clamp(min=LEAST)
        own = table.gather(-1, torch.tensor(list(ids), device=table.device)[:, None])[:, 0].tolist()
        values, places = table.topk(min(top, table.shape[-1]), dim=-1)
        word = self._words.one
        rows = zip(ids, own, values.tolist(), places.tolist(), strict=True)
        return [
            Token(word(token), value, tuple((word(i), v) for i, v in zip(found, likely, strict=True)))
            for token, value, likely, found in rows
        ]

    def shares(self, ask: Ask, labels: Labels) -> Generator[list[float] | Want, Found, None]:
        """How likely each label is among the labels: the prompt is read once, the labels branch off from it."""
        row = self._computer.open(ask.key, ask.ids)
        try:
            first = (yield from _sure(Want(row))).logits[-1].log_softmax(-1)
            scores = {label: float(first[ids[0]]) for label, ids in enumerate(labels)}
            for part in _parts(labels):
                found = yield from _sure(Want(row, branches=tuple(tuple(labels[label][:-1]) for label in part)))
                for label, rest in zip(part, _rests(found, [labels[label] for label in part]), strict=True):
                    scores[label] += rest
            shares = Choice(0, scores).probabilities()
            yield [shares[label] for label in range(len(labels))]
        finally:
            row.close()

    def differences(self, key: str | None, probes: Sequence[Probe]) -> Generator[float | Want, Found, None]:
        """How far each probe is from what was sealed: prompt read, and its last token as a step of its own."""
        for probe in probes:
            *head, last = probe.prompt_ids
            row = self._computer.open(key, head or [last])
            try:
                found = yield Want(row)
                if head:
                    row.ids.append(last)
                    found = yield Want(row)
            finally:
                row.close()
            said = found.logits[-1].log_softmax(-1)[probe.token_ids].cpu()
            difference = float((said - torch.tensor(probe.log_probabilities)).abs().max())
            yield difference if math.isfinite(difference) else math.inf


def _sure(want: Want) -> Generator[Want, Found, Found]:
    """What is found for a want; NotFinite where it is no distribution."""
    found = yield want
    # Of a line with infinity, or with what is not a number, that is the likeliest: one look tells.
    lines = enumerate(found.likeliest)
    if all(math.isfinite(found.logits[line, token].item()) for line, token in lines):
        return found
    raise NotFinite


def _parts(labels: Labels) -> Iterator[list[int]]:
    """Labels of more than one token, as many at a time as a computer takes."""
    part: list[int] = []
    size = 0
    for label, ids in enumerate(labels):
        if len(ids) < 2:
            continue
        if part and size + len(ids) - 1 > SCORED_TOKENS:
            yield part
            part, size = [], 0
        part.append(label)
        size += len(ids) - 1
    if part:
        yield part


def _rests(found: Found, labels: Labels) -> list[float]:
    """Log-likelihood of each label's tokens after the first."""
    table: Any = found.logits.log_softmax(-1)
    targets = torch.tensor([token for ids in labels for token in ids[1:]], device=table.device)
    values = table.gather(-1, targets[:, None])[:, 0].double()
    return [float(part.sum()) for part in values.split([len(ids) - 1 for ids in labels])]
