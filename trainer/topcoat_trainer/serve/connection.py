"""A client's connection: how long a head may take, and how long an answer may wait for somebody to read it.

What a slow or silent client holds is given back after these times. Knows no route and nothing that is said.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
import pydantic_core
from uvicorn.protocols.http.h11_impl import H11Protocol

from topcoat_trainer.serve.protocol import ApiError

HEAD_SECONDS = 10.0
"""From the first byte of a request to the end of its head."""
UNREAD_SECONDS = 30.0
"""Since the client has read nothing of what waits for it."""


class Connection(H11Protocol):
    """uvicorn's, which limits only the silence between two requests."""

    _head: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        for timer in (self._head, self._unread):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._between_requests():
            self._head_is_whole()
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _between_requests(self) -> bool:
        """A head is on its way, or the rest of a body that nobody waits for: its request is answered already."""
        return self.conn.their_state is h11.IDLE or self.conn.our_state is h11.DONE

    def _head_is_whole(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def on_response_complete(self) -> None:
        # A request that came together with the one before is begun in here.
        super().on_response_complete()
        if not self._between_requests():
            self._head_is_whole()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP. In OpenAI's shape, where an answer has not begun already."""
        if self.conn.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            self.transport.abort()
            return
        body = pydantic_core.to_json(ApiError(400, "this is not valid HTTP", "invalid_http").body())
        events: tuple[Any, ...] = (
            h11.Response(status_code=400, headers=[("content-type", "application/json"), ("connection", "close")]),
            h11.Data(data=body),
            h11.EndOfMessage(),
        )
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()
