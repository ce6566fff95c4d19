"""Requests to a test's API server, as its own audit log tells them: who asked for what. It is how budgets of requests
are proved. Reads only; requests to other paths than the API's objects are not logged."""

from __future__ import annotations

import collections
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    # A watch is told when it begins; everything else when it is answered.
    "omitStages": ["RequestReceived"],
    "rules": [{"level": "None", "nonResourceURLs": ["*"]}, {"level": "Metadata"}],
}
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `resource` is `jobs`, or `finetunejobs/status` for a subresource."""

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int
    at: str

    @property
    def writes(self) -> bool:
        return self.verb in WRITES


class Log:
    """The audit log of one API server. `mark` remembers how far it was written, so that a test sees its own part."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._from = 0

    def mark(self) -> None:
        self._from = self.path.stat().st_size if self.path.exists() else 0

    def requests(self, user: str | None = None, namespace: str | None = None) -> list[Request]:
        """Requests since the mark, each once, in the order of their answers."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as log:
            log.seek(self._from)
            # The last line may be half written.
            entries = [json.loads(line) for line in log if line.endswith(b"\n")]
        found = {entry["auditID"]: _request(entry) for entry in entries}
        return [
            request
            for request in found.values()
            if user in {None, request.user} and namespace in {None, request.namespace}
        ]

    def counts(self, user: str, namespace: str | None = None) -> dict[tuple[str, str], int]:
        """(verb, resource) -> how often this user asked for it since the mark."""
        return dict(collections.Counter((one.verb, one.resource) for one in self.requests(user, namespace)))

    def by_user(self) -> dict[str, int]:
        return dict(collections.Counter(request.user for request in self.requests()))


def _request(entry: dict[str, Any]) -> Request:
    what = entry.get("objectRef", {})
    parts = [what.get("resource", ""), what.get("subresource", "")]
    return Request(
        user=entry["user"]["username"],
        verb=entry["verb"],
        resource="/".join(part for part in parts if part),
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        code=entry.get("responseStatus", {}).get("code", 0),
        at=entry["stageTimestamp"],
    )
