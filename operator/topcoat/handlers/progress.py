"""How far trainers are: Kubeflow's protocol. Each speaks for its own pod only, by a token that the API server checks.

Writes status.progress under a field manager of its own, at most once in ten seconds for a job. Any replica may.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pydantic
from aiohttp import web

from topcoat.api import metadata, report
from topcoat.cluster import client
from topcoat.manifests import metadata as labels
from topcoat.plan import observed
from topcoat.plan import progress as shown

Json = dict[str, Any]

logger = logging.getLogger(__name__)

BODY_BYTES = 16_384
INTERVAL_SECONDS = 10.0
REVIEW_SECONDS = 300.0
POD_NAME = "authentication.kubernetes.io/pod-name"
POD_UID = "authentication.kubernetes.io/pod-uid"


@dataclass(frozen=True, slots=True)
class Speaker:
    """Whose trainer speaks."""

    namespace: str
    job: str
    job_uid: str


@dataclass(slots=True)
class Ear:
    """Hears trainers. Tokens are reviewed once in five minutes, whatever comes of it."""

    api: client.Client
    audience: str
    reviewed: dict[str, tuple[float, Speaker | None]] = field(default_factory=dict)
    written_at: dict[Speaker, float] = field(default_factory=dict)
    latest: dict[Speaker, report.Progress] = field(default_factory=dict)

    async def hear(self, request: web.Request) -> web.Response:
        """POST of `{"trainerStatus": …}`."""
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
        speaker = await self._speaker(token) if token else None
        if speaker is None:
            raise web.HTTPUnauthorized(text="show the token of a trainer pod")
        try:
            said = _read(await request.content.read(BODY_BYTES + 1))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        self.latest[speaker] = said
        now = asyncio.get_running_loop().time()
        due = self.written_at.get(speaker, float("-inf")) + INTERVAL_SECONDS
        if now < due:
            return web.Response(status=202)
        self.written_at[speaker] = now
        await self._write(speaker, said)
        return web.Response(status=200)

    async def _speaker(self, token: str) -> Speaker | None:
        now = asyncio.get_running_loop().time()
        known = self.reviewed.get(token)
        if known is not None and now - known[0] < REVIEW_SECONDS:
            return known[1]
        self.reviewed = {old: entry for old, entry in self.reviewed.items() if now - entry[0] < REVIEW_SECONDS}
        found = await self._review(token)
        self.reviewed[token] = (now, found)
        return found

    async def _review(self, token: str) -> Speaker | None:
        """The FineTuneJob whose trainer's pod this token was made for."""
        status = await self.api.review_token(token, self.audience)
        if not status.get("authenticated") or self.audience not in (status.get("audiences") or ()):
            return None
        user = status.get("user") or {}
        parts = str(user.get("username", "")).split(":")
        extra = user.get("extra") or {}
        if parts[:2] != ["system", "serviceaccount"] or len(parts) != 4 or not extra.get(POD_NAME):
            return None
        pod = await self.api.get_or_none("Pod", parts[2], extra[POD_NAME][0])
        if pod is None or pod["metadata"]["uid"] != next(iter(extra.get(POD_UID) or ()), None):
            return None
        return await self._owner(parts[2], pod)

    async def _owner(self, namespace: str, pod: Json) -> Speaker | None:
        """By way of the Job that made the pod: labels alone may be anybody's."""
        said = pod["metadata"].get("ownerReferences") or ()
        parent = next((owner for owner in said if owner.get("controller") and owner["kind"] == "Job"), None)
        job = await self.api.get_or_none("Job", namespace, parent["name"]) if parent else None
        if parent is None or job is None or job["metadata"]["uid"] != parent["uid"]:
            return None
        above = job["metadata"].get("ownerReferences") or ()
        found = next((owner for owner in above if owner.get("controller") and owner["kind"] == "FineTuneJob"), None)
        return Speaker(namespace, found["name"], found["uid"]) if found else None

    async def _write(self, speaker: Speaker, said: report.Progress) -> None:
        said_now = said.model_copy(update={"last_updated_time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")})
        body = {
            "apiVersion": metadata.API_VERSION,
            "kind": "FineTuneJob",
            "metadata": {"name": speaker.job, "namespace": speaker.namespace, "uid": speaker.job_uid},
            "status": {
                "progress": shown.shown_progress(said_now, done=False, state=observed.AttemptState.RUNNING).as_json()
            },
        }
        with contextlib.suppress(client.ApiError):
            await self.api.apply_status(body, labels.PROGRESS_MANAGER)


def _read(data: bytes) -> report.Progress:
    """The trainer's words, or ValueError in ours."""
    if len(data) > BODY_BYTES:
        raise ValueError(f"more than {BODY_BYTES} bytes")
    try:
        said = json.loads(data)["trainerStatus"]
        return report.Progress.model_validate(said)
    except (ValueError, KeyError, TypeError, RecursionError, pydantic.ValidationError):
        raise ValueError('the body is not {"trainerStatus": {...}}') from None
