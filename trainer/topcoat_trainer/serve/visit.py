"""One client's request as it is counted: who answered, how long it took, how it ended. Also: errors in words."""

from __future__ import annotations

import logging
import time
import traceback
from dataclasses import dataclass, field

from topcoat_trainer.serve.admission import Closed, Full
from topcoat_trainer.serve.alias import Tag
from topcoat_trainer.serve.engine import CannotAnswer, EngineLost, Piece
from topcoat_trainer.serve.metric import NOBODY, Metrics
from topcoat_trainer.serve.protocol import ApiError
from topcoat_trainer.serve.reply import Told
from topcoat_trainer.serve.traffic import Answer, Traffic

BASE = "base"
FORESEEN: dict[type[Exception], ApiError] = {
    Full: ApiError(429, "too many requests wait here; try again soon", "rate_limit_exceeded"),
    Closed: ApiError(503, "the server is stopping; another one answers", "stopping"),
    EngineLost: ApiError(503, "the engine begins anew; try again soon", "loading"),
    TimeoutError: ApiError(504, "the answer took longer than this server allows", "timeout"),
}
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Visit:
    """Counted once, when it ends."""

    id: str
    metrics: Metrics | None = None
    traffic: Traffic | None = None
    model: str = NOBODY
    version: str = NOBODY
    tag: Tag | None = None
    fingerprint: str = ""
    answer: Answer = field(default_factory=Answer)
    told: Told = field(default_factory=lambda: Told(0))
    started: float = field(default_factory=time.monotonic)
    begun: bool = False
    ended: bool = False

    @property
    def headers(self) -> dict[str, str]:
        known = {} if self.version == NOBODY else {"x-topcoat-version": self.version}
        return {"x-request-id": self.id, **known}

    def answers(self, model: str, tag: Tag | None, base_digest: str) -> None:
        """Who answers is known now. `model` was found in the table, so it is no invention of the client's."""
        self.model, self.tag = model, tag
        self.version = tag.name if tag else BASE
        self.fingerprint = tag.digest if tag else f"sha256:{base_digest.removeprefix('sha256:')}"

    def note(self, piece: Piece) -> None:
        """Something was made."""
        self.told.completion_tokens += piece.count
        self.answer.add(piece.text, piece.finish)
        if not self.begun and self.metrics is not None:
            self.metrics.first_token(self.model, self.version, time.monotonic() - self.started)
        self.begun = True

    def finish(self, code: int, *, fault: bool = True) -> None:
        """`fault`: whether an error is the version's; not where the server is stopping or has just begun."""
        if self.ended or self.metrics is None:
            return
        self.ended = True
        seconds = time.monotonic() - self.started
        self.metrics.request(self.model, self.version, code, seconds)
        if self.traffic is not None and self.tag is not None and fault:
            self.traffic.note(self.model, self.tag, code, seconds, self.answer)
        if self.begun:
            self.metrics.tokens(self.model, self.version, self.told.prompt_tokens, self.told.completion_tokens)


def explained(error: Exception, request_id: str) -> ApiError:
    """An error as the client is told it. What is not foreseen is told, and logged, without its own words: they may
    hold a prompt's text.
    """
    if isinstance(error, ApiError):
        return error
    if isinstance(error, CannotAnswer):
        return ApiError(400, str(error), "unsupported_field")
    for foreseen, said in FORESEEN.items():
        if isinstance(error, foreseen):
            return said
    kind = type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "?"
    log.error("request %s failed: %s at %s", request_id, kind, place)
    if "OutOfMemory" in kind or isinstance(error, MemoryError):
        return ApiError(503, "the device has not enough memory for this request now", "out_of_memory")
    return ApiError(500, f"the request failed ({kind})", "internal_error")
