"""Answers in OpenAI's shapes, whole or in chunks, from the pieces that the engine makes. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from topcoat_trainer.serve import response
from topcoat_trainer.serve.engine import Piece, Token


@dataclass(slots=True)
class Told:
    """What was answered so far, for the usage."""

    prompt_tokens: int
    completion_tokens: int = 0

    def usage(self) -> response.Usage:
        total = self.prompt_tokens + self.completion_tokens
        return response.Usage(
            prompt_tokens=self.prompt_tokens, completion_tokens=self.completion_tokens, total_tokens=total
        )


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of one reply says. `usage`: chunks have the field. `prompts`: texts to echo, by choice."""

    id: str
    model: str
    fingerprint: str
    usage: bool = False
    prompts: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))


class ChatReply:
    """/v1/chat/completions."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.counts = head.usage
        self._begun: set[int] = set()

    def whole(self, pieces: Iterable[tuple[int, Piece]], told: Told) -> dict[str, Any]:
        choices = [
            response.ChatChoice(
                index=index,
                message=response.Answer(role="assistant", content=piece.text),
                logprobs=_chat_logprobs(piece.tokens),
                finish_reason=piece.finish or "stop",
            )
            for index, piece in _joined(pieces)
        ]
        return _reply(response.ChatCompletion, self._head, choices, told.usage())

    def chunks(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        if index not in self._begun:
            self._begun.add(index)
            yield self._chunk(index, response.Answer(role="assistant", content=""), None, None)
        if piece.text or piece.tokens:
            answer = response.Answer(content=piece.text)
            yield self._chunk(index, answer, _chat_logprobs(piece.tokens), None)
        if piece.finish:
            yield self._chunk(index, response.Answer(), None, piece.finish)

    def last(self, told: Told) -> dict[str, Any]:
        return _reply(response.ChatChunk, self._head, [], told.usage())

    def _chunk(
        self, index: int, delta: response.Answer, logprobs: response.ChatLogprobs | None, finish: str | None
    ) -> dict[str, Any]:
        choice = response.ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=finish)
        return _reply(response.ChatChunk, self._head, [choice])


class CompletionReply:
    """/v1/completions."""

    def __init__(self, head: Head) -> None:
        self._head = head
        self.counts = head.usage
        self._told: dict[int, int] = {}

    def whole(self, pieces: Iterable[tuple[int, Piece]], told: Told) -> dict[str, Any]:
        choices = [self._choice(index, piece) for index, piece in _joined(pieces)]
        return _reply(response.Completion, self._head, choices, told.usage())

    def chunks(self, index: int, piece: Piece) -> Iterator[dict[str, Any]]:
        choice = self._choice(index, piece)
        if choice.text or choice.logprobs or choice.finish_reason:
            yield _reply(response.Completion, self._head, [choice])

    def last(self, told: Told) -> dict[str, Any]:
        return _reply(response.Completion, self._head, [], told.usage())

    def _choice(self, index: int, piece: Piece) -> response.CompletionChoice:
        first = index not in self._told
        start = self._told.setdefault(index, 0)
        text = (self._head.prompts[index] if first and self._head.prompts else "") + piece.text
        tokens = (*piece.prompt, *piece.tokens)
        logprobs = _completion_logprobs(tokens, start) if tokens else None
        self._told[index] += sum(len(token.text) for token in tokens)
        return response.CompletionChoice(index=index, text=text, logprobs=logprobs, finish_reason=piece.finish)


def _joined(pieces: Iterable[tuple[int, Piece]]) -> Iterator[tuple[int, Piece]]:
    """All pieces of each choice as one."""
    found: dict[int, list[Piece]] = {}
    for index, piece in pieces:
        found.setdefault(index, []).append(piece)
    for index, parts in sorted(found.items()):
        yield (
            index,
            Piece(
                "".join(part.text for part in parts),
                sum(part.count for part in parts),
                tuple(token for part in parts for token in part.tokens),
                tuple(token for part in parts for token in part.prompt),
                parts[-1].finish,
            ),
        )


def _reply(
    kind: type[response.Reply], head: Head, choices: list[Any], usage: response.Usage | None = None
) -> dict[str, Any]:
    made = kind.model_validate(
        {
            "id": head.id, "created": head.created, "model": head.model, "system_fingerprint": head.fingerprint,
            "choices": choices, "usage": usage,
        }
    ).model_dump(mode="json")  # fmt: skip
    for choice in made["choices"]:
        if "delta" in choice:  # a delta holds only what is new
            choice["delta"] = {name: value for name, value in choice["delta"].items() if value is not None}
    if usage is None and not head.usage:
        del made["usage"]
    return made


def _chat_logprobs(tokens: Iterable[Token]) -> response.ChatLogprobs | None:
    content = [
        response.TokenLogprob(**_top(token.text, token.log_probability or 0.0), top_logprobs=_tops(token))
        for token in tokens
    ]
    return response.ChatLogprobs(content=content) if content else None


def _tops(token: Token) -> list[response.TopLogprob]:
    return [response.TopLogprob(**_top(text, value)) for text, value in token.top]


def _top(text: str, value: float) -> dict[str, Any]:
    return {"token": text, "logprob": value, "bytes": list(text.encode(errors="replace"))}


def _completion_logprobs(tokens: tuple[Token, ...], start: int) -> response.CompletionLogprobs:
    offsets = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    return response.CompletionLogprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=[token.log_probability for token in tokens],
        top_logprobs=[_by_text(token) for token in tokens],
        text_offset=offsets,
    )


def _by_text(token: Token) -> dict[str, float] | None:
    """The likeliest by their text, the token itself included; of two with the same text the likelier stays."""
    if token.log_probability is None:
        return None
    found: dict[str, float] = {}
    for text, value in (*token.top, (token.text, token.log_probability)):
        found[text] = max(value, found.get(text, value))
    return found
