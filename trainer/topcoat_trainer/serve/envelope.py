"""What comes around a request: its body within limits, its token, its id; and a refusal as an HTTP answer."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import uuid
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from topcoat_trainer.serve.protocol import ApiError

# A larger text would keep the event loop, which counts its tokens, from answering probes for a second.
BODY_BYTES = 1024 * 1024
BODY_SECONDS = 30.0
TOKEN_BYTES = 4096
REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
JSON_TYPE = re.compile(r"\s*application/(json|[\w.+-]+\+json)\s*(;.*)?", re.IGNORECASE)
RETRY_AFTER_SECONDS = {429: 1, 503: 5}
Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Gone(Exception):
    """The client has hung up."""


async def body(request: Request) -> bytes:
    """The body; ApiError if it is said to be no JSON (a web page of another site could send such a one in its
    reader's name), is too large or comes too slowly.
    """
    if not JSON_TYPE.fullmatch(request.headers.get("content-type", "application/json")):
        raise ApiError(415, "Content-Type must be application/json", "unsupported_media_type")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > BODY_BYTES:
                    raise ApiError(413, f"the body is larger than {BODY_BYTES} bytes", "request_too_large")
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time", "request_timeout") from None
    except ClientDisconnect:
        raise Gone from None
    return b"".join(parts)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """The work's result; Gone, and the work cancelled, when the client hangs up first."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_left(request))
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def request_id(request: Request) -> str:
    """The client's own, if it is a plain one, else a new one."""
    given = request.headers.get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def bearer(request: Request) -> str | None:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" and token.strip() else None


def is_token(shown: str | None, sha256: str) -> bool:
    """Whether a token has this digest; takes equally long whatever is shown."""
    found = hashlib.sha256((shown or "").encode(errors="replace")).hexdigest()
    return hmac.compare_digest(found, sha256) and shown is not None


def opens(token_file: str | None, shown: str | None) -> bool:
    """Whether the token of a file is the one shown. No file: open to all. A file that cannot be read opens nothing."""
    if token_file is None:
        return True
    try:
        with Path(token_file).open("rb") as file:
            token = file.read(TOKEN_BYTES).strip()
    except OSError as error:
        log.warning("%s: the token cannot be read (%s), so nobody is let in by it", token_file, error.strerror)
        return False
    return bool(token) and is_token(shown, hashlib.sha256(token).hexdigest())


def refusal(error: ApiError, headers: Mapping[str, str]) -> JSONResponse:
    more = {"retry-after": str(RETRY_AFTER_SECONDS[error.status])} if error.status in RETRY_AFTER_SECONDS else {}
    if error.status == 401:
        more["www-authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, {**headers, **more})
