"""The API server over one shared HTTP session: dict bodies, a time limit on every call, every call counted.

Objects are never read, changed and written back: they are created, applied or patched.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pydantic_core

from topcoat.manifests import metadata

Json = dict[str, Any]

TIMEOUT_SECONDS = 20.0
PAGE = 500
WATCH_SECONDS = 240
APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
PLURALS = {
    "ConfigMap": "api/v1/{}/configmaps",
    "Event": "api/v1/{}/events",
    "PersistentVolumeClaim": "api/v1/{}/persistentvolumeclaims",
    "Pod": "api/v1/{}/pods",
    "Secret": "api/v1/{}/secrets",
    "Service": "api/v1/{}/services",
    "Deployment": "apis/apps/v1/{}/deployments",
    "Job": "apis/batch/v1/{}/jobs",
    "Lease": "apis/coordination.k8s.io/v1/{}/leases",
    "NetworkPolicy": "apis/networking.k8s.io/v1/{}/networkpolicies",
    "Workload": "apis/kueue.x-k8s.io/v1beta1/{}/workloads",
    "FineTuneJob": "apis/topcoat.dev/v1alpha1/{}/finetunejobs",
    "ModelServer": "apis/topcoat.dev/v1alpha1/{}/modelservers",
    "FineTuneProfile": "apis/topcoat.dev/v1alpha1/{}finetuneprofiles",
}


class ApiError(Exception):
    """The API server said no. `status` is 0 where no answer came."""

    def __init__(self, status: int, reason: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status, self.reason, self.message = status, reason, message
        self.retry_after_seconds = retry_after_seconds

    @property
    def passing(self) -> bool:
        """Whether the same call may succeed later by itself."""
        return self.status in (0, 408, 409, 429) or self.status >= 500


class Gone(ApiError):
    """A watch is too old: everything must be listed again."""


@dataclass(slots=True)
class Client:
    """One session, one server."""

    session: aiohttp.ClientSession
    server: str
    counts: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """Calls by verb, kind and status code."""

    async def create(self, body: Json) -> Json:
        return await self._send("POST", body["kind"], _path(body), body)

    async def create_unless_there(self, body: Json) -> Json | None:
        """Creates; None where one of that name is there already."""
        try:
            return await self.create(body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return None

    async def apply(self, body: Json, manager: str = metadata.FIELD_MANAGER, *, force: bool = True) -> Json:
        """Server-side apply: fields that we set are ours, all others stay."""
        return await self._patch(_path(body, named=True), body, manager, force)

    async def apply_status(self, body: Json, manager: str = metadata.FIELD_MANAGER) -> Json:
        return await self._patch(f"{_path(body, named=True)}/status", body, manager, True)

    async def _patch(self, path: str, body: Json, manager: str, force: bool) -> Json:
        query = f"?fieldManager={manager}&force={'true' if force else 'false'}"
        return await self._send("PATCH", body["kind"], path + query, body, APPLY)

    async def merge(self, kind: str, namespace: str, name: str, patch: Json) -> Json:
        path = f"{collection(kind, namespace)}/{name}?fieldManager={metadata.FIELD_MANAGER}"
        return await self._send("PATCH", kind, path, patch, MERGE)

    async def replace(self, body: Json) -> Json:
        """Writes an object whole; its resourceVersion must be the current one."""
        return await self._send("PUT", body["kind"], _path(body, named=True), body)

    async def get_or_none(self, kind: str, namespace: str, name: str) -> Json | None:
        try:
            return await self._send("GET", kind, f"{collection(kind, namespace)}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    async def delete(self, kind: str, namespace: str, name: str, *, uid: str = "", orphans: bool = False) -> None:
        """Deletes; an object that is gone, or is another one by now, is none of our business."""
        policy = "Orphan" if orphans else "Foreground"
        options: Json = {"propagationPolicy": policy}
        if uid:
            options["preconditions"] = {"uid": uid}
        try:
            await self._send("DELETE", kind, f"{collection(kind, namespace)}/{name}", options)
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def list_all(self, kind: str, namespace: str, query: str = "") -> tuple[list[Json], str]:
        """All objects, page by page, and the version of the list."""
        items: list[Json] = []
        more = ""
        while True:
            path = f"{collection(kind, namespace)}?limit={PAGE}{query}{f'&continue={more}' if more else ''}"
            body = await self._send("GET", kind, path)
            items += body.get("items") or []
            more = body["metadata"].get("continue", "")
            if not more:
                return items, body["metadata"]["resourceVersion"]

    async def watch(self, kind: str, namespace: str, version: str, query: str = "") -> AsyncIterator[tuple[str, Json]]:
        """Changes since a version, until the server ends the watch. Raises Gone when the version is too old."""
        path = (
            f"{collection(kind, namespace)}?watch=true&resourceVersion={version}"
            f"&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}{query}"
        )
        limits = aiohttp.ClientTimeout(total=None, connect=TIMEOUT_SECONDS, sock_read=WATCH_SECONDS + TIMEOUT_SECONDS)
        try:
            async with self.session.get(f"{self.server}/{path}", timeout=limits) as answer:
                self.counts["WATCH", kind, answer.status] += 1
                if answer.status != 200:
                    raise await _error(answer)
                async for line in _lines(answer):
                    event = pydantic_core.from_json(line)
                    if event["type"] == "ERROR":
                        raise _gone(event["object"])
                    yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ApiError(0, type(error).__name__, "the API server could not be reached") from error

    async def review_token(self, token: str, audience: str) -> Json:
        """Who a token belongs to, by the API server's word."""
        spec = {"token": token, "audiences": [audience]}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}
        answer = await self._send("POST", "TokenReview", "apis/authentication.k8s.io/v1/tokenreviews", body)
        status: Json = answer.get("status") or {}
        return status

    async def _send(
        self, verb: str, kind: str, path: str, body: Json | None = None, content: str = "application/json"
    ) -> Json:
        # Twice and more as fast as the standard library, and every object comes through here.
        data = None if body is None else pydantic_core.to_json(body)
        headers = {"Content-Type": content, "Accept": "application/json"}
        limits = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
        try:
            async with self.session.request(
                verb, f"{self.server}/{path}", data=data, headers=headers, timeout=limits
            ) as answer:
                self.counts[verb, kind, answer.status] += 1
                if answer.status >= 400:
                    raise await _error(answer)
                found: Json = pydantic_core.from_json(await answer.read())
                return found
        except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as error:  # noqa: UP041 - says which time-out is meant
            self.counts[verb, kind, 0] += 1
            raise ApiError(0, type(error).__name__, "the API server could not be reached") from error


def collection(kind: str, namespace: str) -> str:
    """Path of all objects of a kind, in one namespace or (empty) in all."""
    place = f"namespaces/{namespace}" if namespace else ""
    return PLURALS[kind].format(place).replace("//", "/")


def _path(body: Json, *, named: bool = False) -> str:
    meta = body["metadata"]
    path = collection(body["kind"], meta.get("namespace", ""))
    return f"{path}/{meta['name']}" if named else path


async def _lines(answer: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Lines of any length: one object may be larger than a reader's buffer."""
    rest = b""
    async for chunk in answer.content.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            if line:
                yield line


async def _error(answer: aiohttp.ClientResponse) -> ApiError:
    text = await answer.text()
    try:
        said = pydantic_core.from_json(text)
        reason, message = str(said.get("reason", "")), str(said.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = answer.reason or "", text[:300]
    wait = answer.headers.get("Retry-After", "")
    kind = Gone if answer.status == 410 else ApiError
    return kind(answer.status, reason, message, float(wait) if wait.isdecimal() else None)


def _gone(status: Json) -> ApiError:
    code = int(status.get("code") or 0)
    kind = Gone if code == 410 or status.get("reason") in ("Expired", "Gone") else ApiError
    return kind(code, str(status.get("reason", "")), str(status.get("message", "")))
