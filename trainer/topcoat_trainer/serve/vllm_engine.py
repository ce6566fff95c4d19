"""A stock vLLM in the same pod, driven over loopback. Loads versions by names that are never used twice.

When its process goes, nothing is known of what was loaded: the agent is told, and loads and proves all again. Makes no
answer itself.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers

from topcoat.api.report import Probe
from topcoat.api.server import BesideVLLM, ServerFile
from topcoat_trainer import adapter_file, devices, files, model
from topcoat_trainer.errors import BaseModelError, TrainerError, UserInputError
from topcoat_trainer.evaluate import generate
from topcoat_trainer.model import BaseModel
from topcoat_trainer.model_file import ModelFacts
from topcoat_trainer.serve import vllm_base
from topcoat_trainer.serve.answer import Words
from topcoat_trainer.serve.engine import Ask, Business, CannotAnswer, EngineLost, Piece
from topcoat_trainer.serve.vllm_answer import VLLMAnswers
from topcoat_trainer.serve.vllm_base import Base
from topcoat_trainer.serve.vllm_http import VLLM, Away, Json, Refused

LOOK_SECONDS = 1.0
AGAIN_SECONDS = 0.1
PAUSE_SECONDS = 3.0
PATIENCE = 6
"""Looks in a row that may time out: a busy vLLM is no dead one."""
SAY_SECONDS = 60
BASE_NEAR = {"FP32": 1e-3, "FP16": 5e-2, "BF16": 3e-1}
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Told:
    """What the engine is told of itself."""

    vllm: BesideVLLM
    base_name: str
    max_running: int
    ends: frozenset[int]


class VLLMEngine:
    """Start it by `started`."""

    name = "VLLM"

    def __init__(self, told: Told, base: BaseModel, http: VLLM) -> None:
        self.base = base
        self.version = ""
        self._told = told
        self._http = http
        self._folder = Path(told.vllm.folder)
        tokenizer: Any = base.tokenizer
        self._answers = VLLMAnswers(http, Words(tokenizer.decode, told.ends))
        self._names: dict[str, str] = {}
        self._beside = Base(http, told.base_name, BASE_NEAR[told.vllm.precision])
        self._boot = ""
        self._up = asyncio.Event()
        self._gone = asyncio.Event()
        self._look = asyncio.Event()
        self._inside = 0
        self._watching: asyncio.Task[None] | None = None

    @classmethod
    async def started(cls, told: ServerFile, facts: ModelFacts, end_ids: frozenset[int]) -> VLLMEngine:
        """Once vLLM is up with the right base model. `end_ids`: what ends a turn of the chat template."""
        if told.vllm is None:
            raise UserInputError("no vLLM is named", where="vllm")
        base = await asyncio.to_thread(_outline, facts, told.vllm.precision)
        ends = generate.end_tokens(base.model, base.tokenizer, *end_ids)
        # vLLM refuses a request that names a token which the model cannot say.
        possible = frozenset(token for token in ends if token < facts.vocabulary_size)
        known = Told(told.vllm, told.base_model_id, told.max_running, possible)
        engine = cls(known, base, VLLM(told.vllm.url, told.request_seconds))
        try:
            await engine._begun()
        except BaseException:
            await engine._http.close()
            raise
        engine._watching = asyncio.create_task(engine._watched())
        return engine

    # --- vLLM's life

    async def _begun(self) -> None:
        """Begins until nothing comes between. BaseModelError where it is another vLLM than ours."""
        while not self._up.is_set():
            try:
                await self._begin()
            except (Away, Refused, TimeoutError) as error:
                log.warning("vLLM cannot be used yet (%s)", error)
                await asyncio.sleep(PAUSE_SECONDS)

    async def _begin(self) -> None:
        """Waits until vLLM is there, empties it, and listens to the base model alone."""
        self._boot = await self._awaited()
        cards = await self._http.cards()
        self._check(cards)
        for name in vllm_base.names(cards):  # of an agent before us; nobody asks for it any more
            await self._http.unload(name)
        await asyncio.to_thread(self._clear)
        self._beside = Base(self._http, self._told.base_name, BASE_NEAR[self._told.vllm.precision])
        await self._beside.listen(self.base.facts.vocabulary_size)
        self.version = await self._http.version()
        self._up.set()
        log.info("vLLM %s is there, started at %s", self.version, self._boot or "an unknown time")

    async def _awaited(self) -> str:
        loop = asyncio.get_running_loop()
        again = 0.0
        while True:
            try:
                await self._http.healthy()
                return await self._http.boot()
            except (Away, Refused, TimeoutError):
                if loop.time() >= again:
                    log.info("waiting for vLLM at %s", self._told.vllm.url)
                    again = loop.time() + SAY_SECONDS
            await asyncio.sleep(LOOK_SECONDS)

    def _check(self, cards: Sequence[Json]) -> None:
        """That it is our vLLM: the base under our name, from our folder."""
        card = next((card for card in cards if card["id"] == self._told.base_name), None)
        wanted = str(self.base.path)
        if card is None or card.get("root") != wanted:
            shown = f"the one of {card.get('root')}" if card else f"none of the name {self._told.base_name}"
            hint = f"start it with --model {wanted} --served-model-name {self._told.base_name}"
            raise BaseModelError(f"vLLM has another base model: {shown}", where=self._told.vllm.url, hint=hint)
        most = int(card.get("max_model_len") or 0)
        if most and (not self.base.facts.max_positions or most < self.base.facts.max_positions):
            self.base.facts = replace(self.base.facts, max_positions=most)

    def _clear(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for left in self._folder.iterdir():
            shutil.rmtree(left, ignore_errors=True)

    async def _watched(self) -> None:
        try:
            await self._watch()
        finally:
            await self._http.close()

    async def _watch(self) -> None:
        """Looks at vLLM every second; whatever it held when it went is lost."""
        missed = 0
        while True:
            self._look.clear()
            try:
                missed, same = 0, await self._same()
            except TimeoutError:
                missed += 1
                same = missed < PATIENCE
            if not same:
                await self._again()
            try:
                await asyncio.wait_for(self._look.wait(), LOOK_SECONDS)
            except TimeoutError:
                continue

    async def _same(self) -> bool:
        """Whether it is there, and the process that it was. One connection may break; two in a row tell of more."""
        for pause in (AGAIN_SECONDS, 0.0):
            try:
                await self._http.healthy()
                return await self._http.boot() == self._boot
            except Away:
                await asyncio.sleep(pause)
            except Refused:
                break
        return False

    async def _again(self) -> None:
        self._lose()
        while not self._up.is_set():
            try:
                await self._begun()
            except TrainerError as error:
                log.error("vLLM cannot be used: %s", error)  # noqa: TRY400 (its words are enough)
                await asyncio.sleep(SAY_SECONDS)

    def _lose(self) -> None:
        log.error("vLLM is away or has begun anew; all that was loaded is lost")
        self._up.clear()
        self._names.clear()
        self._gone.set()

    async def lost(self) -> None:
        await self._gone.wait()
        self._gone.clear()

    def alive(self) -> bool:
        return self._watching is not None and not self._watching.done()

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def business(self) -> Business:
        running = min(self._inside, self._told.max_running)
        return Business(running, self._inside - running)

    def without_base(self) -> str:
        return self._beside.problem if self._up.is_set() else vllm_base.NOT_YET

    # --- versions

    async def load(self, key: str, folder: Path) -> None:
        await self._up.wait()
        boot = self._boot
        if key in self._names:
            raise ValueError(f"{key} is loaded already, and a version is never loaded over another")
        await asyncio.to_thread(_fits, folder)
        # Known from here on, so that whatever goes wrong, `unload` clears it away.
        name = self._names[key] = f"{key}-{secrets.token_hex(4)}"
        await asyncio.to_thread(self._copied, folder, name)
        try:
            await self._http.load(name, str(self._folder / name))
        except Refused as refused:
            self._check_life(boot)
            raise UserInputError(f"vLLM does not load it: {refused}", where=str(folder)) from None
        self._check_life(boot)
        await self._with_base(name)

    def _check_life(self, boot: str) -> None:
        if boot != self._boot or not self._up.is_set():
            raise EngineLost("vLLM began anew while a version was being loaded")

    def _copied(self, folder: Path, name: str) -> None:
        """For vLLM to read, now and whenever it has put the version aside: until it is unloaded."""
        own = self._folder / name
        own.mkdir(parents=True)
        for file in (adapter_file.LORA.config, adapter_file.LORA.weights):
            shutil.copyfile(folder / file, own / file)

    async def _with_base(self, name: str) -> None:
        """The base is proved beside each version again."""
        beside = self._beside  # of this life of vLLM's; the next one has its own
        if not beside.name:
            nothing = f"base-{secrets.token_hex(4)}"
            try:
                await beside.enter(nothing, self._folder / nothing, self._folder / name)
            except (Refused, TimeoutError, OSError) as error:
                log.warning("the base model gets no place beside versions (%s)", type(error).__name__)
                return
        await beside.prove(name)

    async def unload(self, key: str) -> None:
        name = self._names.pop(key, None)
        if name is None:
            return
        try:
            await self._http.unload(name)
        except (Away, Refused, TimeoutError) as error:
            # The folder stays: a vLLM whose version's folder is gone may stop altogether.
            log.warning("vLLM did not unload %s (%s)", name, type(error).__name__)
            return
        await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)

    # --- answers

    def _model(self, key: str | None) -> str:
        if not self._up.is_set():
            raise EngineLost("vLLM is away")
        if key is None:
            if self._beside.problem:
                raise CannotAnswer(f"the base model is not served here: {self._beside.problem}")
            return self._beside.name
        try:
            return self._names[key]
        except KeyError:
            raise EngineLost("the version is not loaded now") from None

    async def generate(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        self._inside += 1
        try:
            async with self._explained():
                async with aclosing(self._answers.pieces(self._model(ask.key), ask)) as pieces:
                    async for piece in pieces:
                        yield piece
                        if piece.finish:
                            return
                raise Away("the answer broke off")
        finally:
            self._inside -= 1

    async def choose(self, ask: Ask, labels: Sequence[Sequence[int]]) -> Sequence[float]:
        async with self._explained():
            return await self._answers.shares(self._model(ask.key), ask.ids, labels)

    async def probe(self, key: str | None, probes: Sequence[Probe]) -> float:
        async with self._explained():
            return await self._answers.difference(self._model(key), probes)

    @asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        """Inside it vLLM's refusals become words for clients; whatever looks like its end is looked into at once."""
        try:
            yield
        except Away:
            self._look.set()
            raise
        except Refused as refused:
            raise await self._in_words(refused) from None

    async def _in_words(self, refused: Refused) -> Exception:
        if refused.status == 400:
            return CannotAnswer("the engine cannot take the request: it may be one token too long")
        if refused.status == 404:  # a version that was loaded: this is another process than before
            self._boot = "?"
            self._look.set()
            return EngineLost("vLLM does not know the version any more")
        try:  # its front may outlive what computes behind it for some seconds
            await self._http.healthy()
        except (Away, Refused, TimeoutError):
            self._look.set()
            return EngineLost("vLLM is ending")
        return RuntimeError(f"vLLM answered with status {refused.status}")


def _outline(facts: ModelFacts, precision: str) -> BaseModel:
    """The base model with shapes and no numbers: enough to judge versions by."""
    kind: Any = transformers.AutoModelForCausalLM
    config = transformers.AutoConfig.from_pretrained(facts.path, local_files_only=True, trust_remote_code=False)
    with torch.device("meta"):
        shapes = kind.from_config(config)
    if (facts.path / "generation_config.json").is_file():
        shapes.generation_config = transformers.GenerationConfig.from_pretrained(facts.path, local_files_only=True)
    return BaseModel(shapes, model.tokenizer(facts), facts, "meta", devices.DTYPES[precision])


def _fits(folder: Path) -> None:
    """UserInputError for what vLLM cannot hold, though it may say that it does."""
    elsewhere = "serve it with serving.engine Transformers"
    config = folder / adapter_file.LORA.config
    if not config.is_file():
        words = "the version has whole layers of its own, and a vLLM that is shared holds LoRA versions only"
        raise UserInputError(words, where=str(folder), hint=elsewhere)
    said = files.read_json(config)
    for field in ("use_dora", "lora_bias", "modules_to_save", "rank_pattern", "alpha_pattern", "layer_replication"):
        if said.get(field):
            words = "the version has DoRA's magnitudes" if field == "use_dora" else f"the version uses {field}"
            raise UserInputError(f"{words}, which vLLM does not serve", where=str(config), hint=elsewhere)
