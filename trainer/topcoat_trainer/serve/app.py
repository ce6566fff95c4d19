"""What clients call: OpenAI's routes. Finds who answers, lets in who may, and streams what the engine makes.

Knows no tensor and no file of a version. Nothing that a client wrote reaches a log, a metric or an error.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import pydantic_core
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from topcoat.api.server import ServerFile
from topcoat_trainer.serve import catalog, envelope, openapi, protocol, reply, response
from topcoat_trainer.serve.admission import Admission
from topcoat_trainer.serve.agent import Agent
from topcoat_trainer.serve.alias import NotYet, Table, Tag, Unknown
from topcoat_trainer.serve.engine import Ask, Engine, Piece, Token
from topcoat_trainer.serve.envelope import Gone
from topcoat_trainer.serve.metric import Metrics
from topcoat_trainer.serve.protocol import ApiError, Asked, ChatRequest, CompletionRequest
from topcoat_trainer.serve.question import Desk, Habit, Prompt, Reader
from topcoat_trainer.serve.traffic import Traffic
from topcoat_trainer.serve.visit import Visit, explained

LEAST = -9999.0
MODELS = "/v1/models/"
BLAMELESS = ("stopping", "loading")
"""Errors that say nothing of the version that was asked for."""
# A longer body takes more than some milliseconds to read.
SHORT_BYTES = 32 * 1024
Pieces = AsyncGenerator[tuple[int, Piece], None]


@dataclass(frozen=True, slots=True)
class Parts:
    """What a server is made of. `reader` and `engine` are there once the base model is loaded."""

    told: ServerFile
    table: Table
    admission: Admission
    metrics: Metrics
    traffic: Traffic
    agent: Agent
    engine: Engine
    reader: Reader
    desk: Desk


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a request asks of the engine: one ask per choice, or labels to choose from."""

    asked: Asked
    asks: tuple[Ask, ...]
    prompts: tuple[Prompt, ...]
    echoed: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    label_ids: tuple[tuple[int, ...], ...] = ()


class Stream(StreamingResponse):
    """Server-sent events. However the connection ends, the work behind it ends with it."""

    def __init__(self, events: AsyncGenerator[bytes, None], pieces: Pieces, visit: Visit) -> None:
        quiet = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        self._events, self._pieces, self._visit = events, pieces, visit
        super().__init__(events, headers={**visit.headers, **quiet}, media_type="text/event-stream")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            # Closing events that were never begun would not close the pieces behind them.
            async with aclosing(self._pieces), aclosing(self._events):
                await super().__call__(scope, receive, send)
        finally:
            self._visit.finish(499)  # where the events came to their end, this is said already


class Clients:
    """The routes. `parts` gives None while the base model is being loaded."""

    def __init__(self, parts: Callable[[], Parts | None]) -> None:
        self._parts = parts

    async def chat(self, request: Request) -> Response:
        return await self._handled(request, ChatRequest, reply.ChatReply)

    async def completion(self, request: Request) -> Response:
        return await self._handled(request, CompletionRequest, reply.CompletionReply)

    async def models(self, request: Request) -> Response:
        return self._listed(request, None)

    async def model(self, request: Request) -> Response:
        # Not as the route tells it: that has lost a line end behind the name.
        return self._listed(request, request.scope["path"].removeprefix(MODELS))

    def _listed(self, request: Request, name: str | None) -> Response:
        headers = {"x-request-id": envelope.request_id(request)}
        try:
            parts = self._present()
            base = catalog.Base.of(parts.told, parts.reader.context, served=not parts.engine.without_base())
            cards = catalog.cards(parts.agent, parts.table, base)
            shown = envelope.bearer(request)
            open_to = {card.id: card for card, files in cards if any(envelope.opens(file, shown) for file in files)}
            if name is not None and name not in open_to:
                raise _denied() if any(card.id == name for card, _ in cards) else _unknown()
            if name is None and cards and not open_to:
                raise _denied()
        except ApiError as error:
            return envelope.refusal(error, headers)
        if name is not None:
            return JSONResponse(open_to[name].model_dump(mode="json"), headers=headers)
        listed = response.ModelList(data=list(open_to.values()))
        return JSONResponse(listed.model_dump(mode="json"), headers=headers)

    async def _handled(self, request: Request, kind: type[Asked], shape: type[Any]) -> Response:
        visit = Visit(envelope.request_id(request))
        try:
            parts = self._present()
            visit.metrics, visit.traffic = parts.metrics, parts.traffic
            body = await envelope.body(request)
            asked = protocol.parsed(kind, body)
            tag = self._route(parts, request, asked)
            visit.answers(asked.model, tag, parts.told.base_model_digest)
            # Nothing is awaited since the version was found, so it is there still.
            with parts.agent.lease(tag):
                plan = await _planned(parts, tag, asked, len(body))
                return await self._answered(request, visit, plan, shape)
        except Gone:
            visit.finish(499)
            return Response(status_code=499)
        except Exception as error:  # noqa: BLE001 (a client is always answered in OpenAI's shape)
            said = explained(error, visit.id)
            visit.finish(said.status, fault=said.code not in BLAMELESS)
            return envelope.refusal(said, visit.headers)

    async def _answered(self, request: Request, visit: Visit, plan: Plan, shape: type[Any]) -> Response:
        parts, asked = self._present(), plan.asked
        usage = bool(asked.stream_options and asked.stream_options.include_usage)
        kind = "chatcmpl" if isinstance(asked, ChatRequest) else "cmpl"
        head = reply.Head(f"{kind}-{visit.id}", asked.model, visit.fingerprint, usage, plan.echoed)
        visit.told = reply.Told(sum(len(prompt.ids) for prompt in plan.prompts))
        pieces = _pieces(parts, visit.tag, plan, visit)
        if not asked.stream:
            async with aclosing(pieces):
                found = await envelope.unless_gone(request, _collected(pieces))
            visit.finish(200)
            return JSONResponse(shape(head).whole(found, visit.told), headers=visit.headers)
        # The first piece before the answer's head: what fails until then is still a proper error.
        try:
            first = await envelope.unless_gone(request, _first(pieces))
        except BaseException:
            await pieces.aclose()
            raise
        return Stream(_events(shape(head), first, pieces, visit), pieces, visit)

    def _present(self) -> Parts:
        parts = self._parts()
        if parts is None:
            raise ApiError(503, "the base model is being loaded", "loading")
        return parts

    @staticmethod
    def _route(parts: Parts, request: Request, asked: Asked) -> Tag | None:
        person = asked.person or request.headers.get("x-session-id")
        shown = envelope.bearer(request)
        try:
            files = parts.table.token_files(asked.model, parts.agent.proved)
            if not any(envelope.opens(file, shown) for file in files):
                raise _denied()
            tag = parts.table.route(asked.model, person, parts.agent.proved)
        except Unknown:
            raise (_not_yet() if parts.agent.coming(asked.model) else _unknown()) from None
        except NotYet:
            raise _not_yet() from None
        if tag is None and (why := parts.engine.without_base()):
            if not parts.agent.complete:  # the versions beside which the base is proved are being loaded
                raise _not_yet()
            raise ApiError(404, f"the base model is not served here: {why}", "model_not_found", "model")
        if tag is not None and not parts.agent.proved(tag):  # the engine has lost what it held
            raise _not_yet()
        return tag


def _unknown() -> ApiError:
    return ApiError(404, "no model of this name is served here", "model_not_found", "model")


def _not_yet() -> ApiError:
    return ApiError(503, "the model is being loaded", "loading", "model")


def _denied() -> ApiError:
    return ApiError(401, "this model needs its bearer token", "invalid_api_key")


async def _planned(parts: Parts, tag: Tag | None, asked: Asked, size: int) -> Plan:
    """Short texts are read at once, long ones at the desk; there they are inside already, so that many are refused."""
    habit, key = _habit(parts.agent, tag), tag.key if tag else None
    if size <= SHORT_BYTES:
        return _plan(parts.reader, asked, habit, key)
    with parts.admission.inside():
        return await parts.desk.read(lambda reader: _plan(reader, asked, habit, key))


def _plan(reader: Reader, asked: Asked, habit: Habit, key: str | None) -> Plan:
    if isinstance(asked, ChatRequest):
        prompts = [reader.chat(asked, habit)]
        if asked.structured_outputs is not None:
            return _choosing(reader, asked, prompts[0], key)
    elif isinstance(asked, CompletionRequest):
        prompts = reader.completion(asked)
    else:
        raise TypeError(type(asked).__name__)
    sampling = reader.sampling(asked, prompts)
    echo = isinstance(asked, CompletionRequest) and asked.echo
    asks, echoed = [], []
    for prompt in prompts:
        for number in range(asked.n):
            seed = None if sampling.seed is None else sampling.seed + number
            own = replace(sampling, seed=seed)
            asks.append(Ask(key, asked.model, prompt.ids, own, scored=echo and sampling.top is not None))
            echoed.append(prompt.text)
    return Plan(asked, tuple(asks), tuple(prompts), tuple(echoed) if echo else ())


def _choosing(reader: Reader, asked: ChatRequest, prompt: Prompt, key: str | None) -> Plan:
    choices = asked.structured_outputs.choice if asked.structured_outputs else ()
    ids = reader.labels(choices)
    longest = max(map(len, ids))
    if asked.most_tokens is not None and asked.most_tokens < longest:
        raise ApiError(400, f"the longest choice has {longest} tokens", "invalid_value", "max_tokens")
    sampling = reader.sampling(asked.model_copy(update={"max_tokens": longest}), [prompt])
    ask = Ask(key, asked.model, prompt.ids, sampling)
    return Plan(asked, (ask,), (prompt,), labels=tuple(choices), label_ids=tuple(map(tuple, ids)))


def _habit(agent: Agent, tag: Tag | None) -> Habit:
    if tag is None:
        return Habit()
    record = agent.record(tag)
    return Habit(record.manifest.system_prompt if record.manifest else None, record.raw)


async def _pieces(parts: Parts, tag: Tag | None, plan: Plan, visit: Visit) -> Pieces:
    """All pieces of all choices, each choice after the other; the version stays loaded until the end."""
    deadline = asyncio.get_running_loop().time() + parts.told.request_seconds
    with parts.admission.inside(), parts.agent.lease(tag):
        for index, ask in enumerate(plan.asks):
            stream = _chosen(parts.engine, ask, plan) if plan.labels else parts.engine.generate(ask)
            async with aclosing(stream):
                while True:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(stream, None)
                    if piece is None:
                        break
                    visit.note(piece)
                    yield index, piece


async def _chosen(engine: Engine, ask: Ask, plan: Plan) -> AsyncGenerator[Piece, None]:
    """The likeliest label as one piece. Its log-probability is its share among the labels."""
    shares = await engine.choose(ask, plan.label_ids)
    best = max(range(len(shares)), key=lambda place: shares[place])
    logs = [math.log(share) if share > 0 else LEAST for share in shares]
    order = sorted(range(len(shares)), key=lambda place: -shares[place])
    top = tuple((plan.labels[place], logs[place]) for place in order[: ask.sampling.top or 0])
    tokens = () if ask.sampling.top is None else (Token(plan.labels[best], logs[best], top),)
    yield Piece(plan.labels[best], len(plan.label_ids[best]), tokens, finish="stop")


async def _collected(pieces: Pieces) -> list[tuple[int, Piece]]:
    return [found async for found in pieces]


async def _first(pieces: Pieces) -> tuple[int, Piece]:
    return await anext(pieces)


async def _events(shape: Any, first: tuple[int, Piece], pieces: Pieces, visit: Visit) -> AsyncGenerator[bytes, None]:
    code, fault = 499, True
    try:
        async with aclosing(pieces):
            for chunk in shape.chunks(*first):
                yield _event(chunk)
            async for index, piece in pieces:
                for chunk in shape.chunks(index, piece):
                    yield _event(chunk)
        if shape.counts:
            yield _event(shape.last(visit.told))
        code = 200
        yield b"data: [DONE]\n\n"
    except Exception as error:  # noqa: BLE001 (the head is sent: the error is an event)
        said = explained(error, visit.id)
        code, fault = said.status, said.code not in BLAMELESS
        yield _event(said.body())
        yield b"data: [DONE]\n\n"
    finally:
        visit.finish(code, fault=fault)


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + pydantic_core.to_json(chunk) + b"\n\n"


async def _health(_: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _document(_: Request) -> Response:
    return JSONResponse(openapi.document())


def _no_route(request: Request, error: Exception) -> Response:
    status, allowed = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    words = {404: "there is no such route", 405: "this route does not know that method"}.get(status, "refused")
    said = ApiError(status, words, "not_found" if status == 404 else "invalid_request")
    return envelope.refusal(said, {"x-request-id": envelope.request_id(request), **(allowed or {})})


def app(clients: Clients) -> Starlette:
    """The application on the clients' port."""
    routes: Sequence[Route] = (
        Route("/v1/chat/completions", clients.chat, methods=["POST"]),
        Route("/v1/completions", clients.completion, methods=["POST"]),
        Route("/v1/models", clients.models),
        Route(MODELS + "{id:path}", clients.model),
        Route("/health", _health),
        Route("/openapi.json", _document),
    )
    made = Starlette(routes=list(routes), exception_handlers={HTTPException: _no_route})
    made.router.redirect_slashes = False  # a client is never sent to an address made of its own Host header
    return made
