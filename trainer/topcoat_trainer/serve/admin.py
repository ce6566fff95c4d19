"""What the operator, the kubelet and Prometheus call, on a port of its own: state, pushes, health, readiness, metrics.

State and pushes need the operator's token; the rest tells nothing secret and needs none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pydantic
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from topcoat.api.server import Push
from topcoat_trainer.serve import envelope, metric
from topcoat_trainer.serve.admission import Admission
from topcoat_trainer.serve.app import Parts
from topcoat_trainer.serve.protocol import ApiError


class Office:
    """The routes. `parts` gives None while the base model is being loaded."""

    def __init__(self, parts: Callable[[], Parts | None], admission: Admission, token_sha256: str) -> None:
        self._parts = parts
        self._admission = admission
        self._token_sha256 = token_sha256

    async def health(self, _: Request) -> Response:
        """200 while the process can work at all: what else fails is mended by no restart."""
        parts = self._parts()
        if parts is not None and not parts.engine.alive():
            return JSONResponse({"status": "the engine has stopped"}, 503)
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """200 once all that the alias files name has been proved, until the server shall stop."""
        parts = self._parts()
        if self._admission.draining:
            return JSONResponse({"status": "stopping"}, 503)
        if parts is None:
            return JSONResponse({"status": "the base model is being loaded"}, 503)
        if not parts.agent.complete or not parts.engine.alive():
            return JSONResponse({"status": "versions are being loaded"}, 503)
        return JSONResponse({"status": "ready"})

    async def metrics(self, _: Request) -> Response:
        parts = self._parts()
        if parts is None:
            return Response(b"", media_type=metric.CONTENT_TYPE)
        # Not in the event loop: with many versions the text takes milliseconds.
        text = await asyncio.to_thread(parts.metrics.text, parts.engine.business(), parts.agent.leased())
        return Response(text, headers={"content-type": metric.CONTENT_TYPE})

    async def state(self, request: Request) -> Response:
        """What this pod holds; with POST, after it has taken in what was pushed."""
        headers = {"x-request-id": envelope.request_id(request)}
        try:
            parts = self._entered(request)
            if request.method == "POST":
                await self._pushed(request, parts)
            return JSONResponse(parts.agent.state().as_json(), headers=headers)
        except envelope.Gone:
            return Response(status_code=499)
        except ApiError as error:
            return envelope.refusal(error, headers)

    def _entered(self, request: Request) -> Parts:
        if not envelope.is_token(envelope.bearer(request), self._token_sha256):
            raise ApiError(401, "this route needs the operator's token", "invalid_api_key")
        parts = self._parts()
        if parts is None:
            raise ApiError(503, "the base model is being loaded", "loading")
        return parts

    @staticmethod
    async def _pushed(request: Request, parts: Parts) -> None:
        try:
            push = Push.model_validate_json(await envelope.body(request))
        except pydantic.ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"])) or None
            raise ApiError(400, f"{field or 'the body'} cannot be understood", "invalid_value", field) from None
        parts.agent.pushed(push)


def _no_route(_: Request, error: Exception) -> Response:
    status, allowed = (error.status_code, error.headers) if isinstance(error, HTTPException) else (500, None)
    words = "this route does not know that method" if status == 405 else "there is no such route"
    code = "invalid_request" if status == 405 else "not_found"
    return envelope.refusal(ApiError(status, words, code), allowed or {})


def app(office: Office) -> Starlette:
    """The application on the agent's port."""
    routes = [
        Route("/agent/state", office.state),
        Route("/agent/aliases", office.state, methods=["POST"]),
        Route("/health", office.health),
        Route("/ready", office.ready),
        Route("/metrics", office.metrics),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})
