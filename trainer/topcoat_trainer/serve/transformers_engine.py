"""Our own engine: the base model and its versions in this process, on a CPU or a GPU. Knows no alias and no HTTP.

Every request keeps its own cache of keys and values and computes alone, so its answer is what the version answers by
itself; steps of different requests take turns.
"""

from __future__ import annotations

import copy
import math
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers

from topcoat.api.report import Probe
from topcoat_trainer import devices, model, prefix
from topcoat_trainer.evaluate import choice, generate, prompt
from topcoat_trainer.evaluate.prompt import Prompted
from topcoat_trainer.model import BaseModel
from topcoat_trainer.model_file import ModelFacts
from topcoat_trainer.serve.engine import Ask, Business, Piece, Token
from topcoat_trainer.serve.held import Held, held
from topcoat_trainer.serve.sampling import Picker
from topcoat_trainer.serve.text import Text
from topcoat_trainer.serve.worker import Worker

SCORED_TOKENS = 256
"""Prompt tokens whose logits are held at once: a whole prompt's would not fit beside a large vocabulary."""
LEAST = -9999.0
"""Minus infinity, as JSON can say it; vLLM's number."""


class TransformersEngine:
    """Start it by `started`."""

    name = "Transformers"
    version = transformers.__version__

    def __init__(self, worker: Worker, base: BaseModel, ends: frozenset[int]) -> None:
        self._worker = worker
        self._base = base
        self._ends = ends
        self._plan = prompt.plan_for_one(base.model)
        self._held: dict[str, Held] = {}
        self._worn: str | None = None
        # The event loop's thread has a tokenizer of its own: one must not be used from two threads at once.
        self._tokenizer: Any = copy.deepcopy(base.tokenizer)

    @classmethod
    async def started(cls, facts: ModelFacts, slots: int, end_ids: frozenset[int]) -> TransformersEngine:
        """The base model loaded, on this machine's device. `end_ids`: what ends a turn of the chat template."""
        worker = Worker(slots)

        def load() -> TransformersEngine:
            devices.use_threads()
            device = devices.choose()
            base = model.load(facts.path, device.name, device.dtype, facts=facts)
            return cls(worker, base, generate.end_tokens(base.model, base.tokenizer, *end_ids))

        try:
            return await worker.call(load)
        except BaseException:
            worker.close()
            raise

    @property
    def base(self) -> BaseModel:
        return self._base

    def business(self) -> Business:
        return Business(*self._worker.business())

    def alive(self) -> bool:
        return self._worker.alive()

    def close(self) -> None:
        self._worker.close()

    async def load(self, key: str, folder: Path) -> None:
        def load() -> None:
            if key in self._held:
                raise ValueError(f"{key} is loaded already, and a version is never loaded over another")
            self._wear(None)
            self._held[key] = held(self._base, folder)

        await self._worker.call(load)

    async def unload(self, key: str) -> None:
        def unload() -> None:
            if self._worn == key:
                self._wear(None)
            self._held.pop(key, None)

        await self._worker.call(unload)

    def generate(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        return self._worker.stream(ask.lane, lambda: self._pieces(ask))

    async def choose(self, ask: Ask, labels: Sequence[Sequence[int]]) -> Sequence[float]:
        asked = choice.Labels(tuple(map(tuple, labels)), every=True)

        def steps() -> Iterator[list[float]]:
            with self._computing(ask.key) as computing:
                found = choice.choose(computing, [ask.ids], asked, self._plan)[0].probabilities()
            yield [found[label] for label in range(len(labels))]

        shares: list[float] = []
        async for part in self._worker.stream(ask.lane, steps):
            shares.extend(part)
        return shares

    async def probe(self, key: str | None, probes: Sequence[Probe]) -> float:
        def steps() -> Iterator[float]:
            for one in probes:
                yield self._difference(key, one)

        found = [difference async for difference in self._worker.stream("", steps)]
        # max() would overlook what is not a number.
        return max(found, default=0.0) if all(map(math.isfinite, found)) else math.inf

    def _difference(self, key: str | None, probe: Probe) -> float:
        """As clients' answers are made: the prompt is read into a cache, its last token as a step of its own."""
        *head, last = probe.prompt_ids
        with self._computing(key) as computing:
            batch = self._read(computing, head) if head else None
            if batch is None:
                batch = self._read(computing, [last])
            else:
                self._advance(computing, batch, last)
            found = batch.logits[0].log_softmax(-1)[probe.token_ids].cpu()
        return float((found - torch.tensor(probe.log_probabilities)).abs().max())

    def _pieces(self, ask: Ask) -> Iterator[Piece | None]:
        """One answer; every `yield` ends a turn, after which another version may be on the model."""
        scored: list[Token] = []
        batch = yield from self._prompt(ask, scored)
        if ask.sampling.max_tokens == 0:
            yield Piece(prompt=tuple(scored), finish="length")
            return
        picker, text = Picker(ask.sampling), Text(self._decoded, ask.sampling.stop)
        for count in range(1, ask.sampling.max_tokens + 1):
            token = picker.pick(batch.logits[0])
            last = count == ask.sampling.max_tokens
            piece = self._piece(ask, text, (token, batch.logits[0]), last=last)
            yield piece if count > 1 else Piece(piece.text, 1, piece.tokens, tuple(scored), piece.finish)
            if piece.finish:
                return
            with self._computing(ask.key) as computing:
                self._advance(computing, batch, token)

    def _piece(self, ask: Ask, text: Text, made: tuple[int, torch.Tensor], *, last: bool) -> Piece:
        token, logits = made
        ended = token in self._ends
        said, stopped = ("", False) if ended else text.add(token)
        if (ended or last) and not stopped:
            rest, stopped = text.rest()
            said += rest
        top = ask.sampling.top
        tokens = () if top is None else (self._tokens(logits[None], [token], top)[0],)
        finish = "stop" if ended or stopped else "length" if last else None
        return Piece(said, 1, tokens, finish=finish)

    def _prompt(self, ask: Ask, scored: list[Token]) -> Generator[None, None, Prompted]:
        """The prompt being read; with scores in parts, so that others have their turn between them."""
        if not ask.scored:
            with self._computing(ask.key) as computing:
                batch = self._read(computing, ask.ids)
            return batch
        top = ask.sampling.top or 0
        scored.append(Token(self._word(ask.ids[0]), None))
        size = SCORED_TOKENS if self._plan.cached else len(ask.ids)
        batch = self._empty()
        for start in range(0, len(ask.ids), size):
            part = ask.ids[start : start + size]
            with self._computing(ask.key) as computing:
                logits = self._feed(computing, batch, part)
                following = ask.ids[start + 1 : start + 1 + len(part)]
                scored.extend(self._tokens(logits[: len(following)], following, top))
            yield
        return batch

    def _read(self, computing: Any, ids: Sequence[int]) -> Prompted:
        return prompt.read_batch(computing, [ids], [0], None, self._plan)

    def _empty(self) -> Prompted:
        """A batch of one that has read nothing yet."""
        cache = prefix.empty_cache(self._base.model) if self._plan.cached else None
        lengths = torch.zeros(1, dtype=torch.long, device=self._base.model.device)
        return Prompted([0], cache, None, lengths, torch.empty(0))

    def _feed(self, computing: Any, batch: Prompted, ids: Sequence[int]) -> torch.Tensor:
        """Reads tokens on, and gives the logits behind each of them."""
        row = torch.tensor([list(ids)], device=computing.device)
        positions = batch.lengths[:, None] + torch.arange(len(ids), device=computing.device)[None, :]
        logits = prompt.step(computing, batch, row, positions, keep=len(ids))
        batch.logits = logits[:, -1]
        batch.lengths = batch.lengths + len(ids)
        return logits[0]

    def _advance(self, computing: Any, batch: Prompted, token: int) -> None:
        self._feed(computing, batch, [token])

    @contextmanager
    def _computing(self, key: str | None) -> Iterator[Any]:
        """The model with a version's weights on it, for one step."""
        self._wear(key)
        with torch.inference_mode():
            yield self._base.model

    def _wear(self, key: str | None) -> None:
        if key == self._worn:
            return
        if self._worn is not None:
            self._held[self._worn].take_off()
            self._worn = None
        if key is not None:
            self._held[key].put_on()
            self._worn = key

    @torch.inference_mode()
    def _tokens(self, logits: torch.Tensor, ids: Sequence[int], top: int) -> list[Token]:
        """Tokens with their log-probabilities, of the model itself: before temperature and top_p."""
        if not ids:
            return []
        table = logits.float().log_softmax(-1).clamp(min=LEAST)
        own = table.gather(-1, torch.tensor(list(ids), device=table.device)[:, None])[:, 0].tolist()
        values, places = table.topk(min(top, table.shape[-1]), dim=-1)
        rows = zip(ids, own, values.tolist(), places.tolist(), strict=True)
        return [
            Token(self._word(token), value, tuple((self._word(i), v) for i, v in zip(found, likely, strict=True)))
            for token, value, likely, found in rows
        ]

    def _word(self, token: int) -> str:
        word: str = self._tokenizer.decode([token])
        return word

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
