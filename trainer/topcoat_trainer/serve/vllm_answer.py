"""Answers from a vLLM's tokens: text with its stops, log-probabilities, shares of labels, the replay of probes.

Text is made here, by the same rules as our own engine's; vLLM computes tokens. Knows neither keys nor vLLM's life.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from topcoat.api.report import Probe
from topcoat_trainer.evaluate.choice import Choice
from topcoat_trainer.serve.answer import Words
from topcoat_trainer.serve.engine import Ask, Piece, Token
from topcoat_trainer.serve.text import Text
from topcoat_trainer.serve.vllm_http import VLLM, Json, asked, largest, numbers

AT_ONCE = 32
MOST_TOKENS = 128
"""Tokens whose log-probabilities vLLM tells at once."""
Ids = tuple[int, ...]


class VLLMAnswers:
    """Makes the answers of one vLLM. `name`: what it knows a version by."""

    def __init__(self, http: VLLM, words: Words) -> None:
        self._http = http
        self._words = words
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def pieces(self, name: str, ask: Ask) -> AsyncGenerator[Piece, None]:
        """Ends without a last piece where vLLM broke off."""
        scored = await self._scored(name, ask) if ask.scored else ()
        most = ask.sampling.max_tokens
        if most == 0:
            yield Piece(prompt=scored, finish="length")
            return
        text, count = Text(self._words.many, ask.sampling.stop), 0
        stream = self._http.stream(self._question(name, ask))
        async with aclosing(stream):
            async for choice in stream:
                for place, token in enumerate(choice.get("token_ids") or ()):
                    count += 1
                    piece = self._piece(text, token, self._told(choice, place, ask.sampling.top), last=count == most)
                    yield replace(piece, prompt=scored) if count == 1 else piece
                    if piece.finish:
                        return

    def _question(self, name: str, ask: Ask) -> Json:
        wanted = ask.sampling
        body = {
            **asked(name, ask.ids), "max_tokens": wanted.max_tokens, "temperature": wanted.temperature,
            "top_p": wanted.top_p, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
            "stop_token_ids": sorted(self._words.ends),
        }  # fmt: skip
        more = {"seed": wanted.seed, "logprobs": wanted.top}
        return body | {field: value for field, value in more.items() if value is not None}

    def _piece(self, text: Text, token: int, tokens: tuple[Token, ...], *, last: bool) -> Piece:
        ended = token in self._words.ends
        said, stopped = ("", False) if ended else text.add(token)
        if (ended or last) and not stopped:
            rest, stopped = text.rest()
            said += rest
        finish = "stop" if ended or stopped else "length" if last else None
        return Piece(said, 1, tokens, finish=finish)

    def _told(self, choice: Json, place: int, top: int | None) -> tuple[Token, ...]:
        if top is None:
            return ()
        rows, own = choice["logprobs"], choice["token_ids"][place]
        return (self._token(own, rows["token_logprobs"][place], numbers(rows["top_logprobs"][place]), top),)

    def _token(self, token: int, value: float, found: dict[int, float], top: int) -> Token:
        likely = sorted(found.items(), key=lambda pair: -pair[1])[:top]
        return Token(self._words.one(token), value, tuple((self._words.one(one), v) for one, v in likely))

    async def _scored(self, name: str, ask: Ask) -> tuple[Token, ...]:
        """The prompt with the log-probability of each of its tokens."""
        top = ask.sampling.top or 0
        choice = await self._http.complete({**asked(name, ask.ids), "max_tokens": 1, "prompt_logprobs": top})
        found = [Token(self._words.one(ask.ids[0]), None)]
        for token, row in zip(ask.ids[1:], choice["prompt_logprobs"][1:], strict=True):
            values = {int(one): said["logprob"] for one, said in row.items()}
            found.append(self._token(token, values[token], values, top))
        return tuple(found)

    async def shares(self, name: str, prompt: Ids, labels: Sequence[Sequence[int]]) -> list[float]:
        """Each beginning that labels share is asked once for all that may follow; vLLM keeps the prompt's part."""
        children: dict[Ids, set[int]] = {}
        for label in labels:
            for place, token in enumerate(label):
                children.setdefault(tuple(label[:place]), set()).add(token)
        first, *rest = children
        found = await self._following(name, prompt, first, children[first])
        for more in await asyncio.gather(*(self._following(name, prompt, one, children[one]) for one in rest)):
            found |= more
        ends = [[tuple(label[: place + 1]) for place in range(len(label))] for label in labels]
        shares = Choice(0, {place: sum(found[one] for one in row) for place, row in enumerate(ends)}).probabilities()
        return [shares[place] for place in range(len(labels))]

    async def _following(self, name: str, prompt: Ids, begun: Ids, wanted: set[int]) -> dict[Ids, float]:
        """Log-probability of each token that may follow a beginning, by the beginning it makes."""
        found: dict[Ids, float] = {}
        tokens = sorted(wanted)
        for start in range(0, len(tokens), MOST_TOKENS):
            part = tokens[start : start + MOST_TOKENS]
            async with self._gate:
                values = await self._http.likelihoods(name, (*prompt, *begun), part)
            found |= {(*begun, token): value for token, value in zip(part, values, strict=True)}
        return found

    async def difference(self, name: str, probes: Sequence[Probe]) -> float:
        """The largest from what was sealed."""
        return largest(await asyncio.gather(*(self._probed(name, probe) for probe in probes)))

    async def _probed(self, name: str, probe: Probe) -> float:
        async with self._gate:
            said = await self._http.likelihoods(name, tuple(probe.prompt_ids), probe.token_ids)
        return largest(abs(one - other) for one, other in zip(said, probe.log_probabilities, strict=True))
