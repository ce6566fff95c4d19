"""A namespace of a cluster as a place to work in: what `place.Place` asks for, by the API server.

Reads objects and edits the spec; everything else is the operator's. Connects when it is first asked for something.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pydantic

from topcoat.api import finetunejob, metadata
from topcoat.api import status as statuses
from topcoat.cli import api_server, follow, place, refusal, sealed, terminal

Json = dict[str, Any]
JOBS = "/apis/topcoat.dev/v1alpha1/namespaces/{}/finetunejobs"
MANAGER = "topcoat-cli"
PAGE = 500
WATCH_SECONDS = 15
UNSEEN_SECONDS = 15.0
PATIENCE_SECONDS = 300.0
LONGEST_PAUSE_SECONDS = 10.0
RIGHTS_SECONDS = 20.0
"""An API server that has just started knows nobody's rights yet."""


class Cluster:
    """A namespace."""

    runner = ("topcoat doctor cluster", "says whether an operator runs")

    def __init__(self, where: api_server.Where) -> None:
        self._where = where
        flag = "" if place.as_plugin() or where.words() else " --cluster"
        self.words = f"{flag}{where.words()}"

    @functools.cached_property
    def api(self) -> api_server.ApiServer:
        return api_server.connect(self._where)

    @property
    def namespace(self) -> str:
        return self.api.namespace

    @property
    def asked_namespace(self) -> str:
        """The namespace that was named on the command line, if any."""
        return self._where.namespace

    def describe(self) -> str:
        return f"namespace {self.namespace} of {self.api.where()}"

    # --- objects

    def path(self, name: str = "") -> str:
        """Address of the jobs, or of one."""
        jobs = JOBS.format(self.namespace)
        return f"{jobs}/{name}" if name else jobs

    def bodies(self) -> list[Json]:
        return [_tidy({**self._kind(), **body}) for body in self.listed(self.path())]

    def listed(self, path: str, query: Json | None = None) -> list[Json]:
        """All objects of a list, page by page."""
        found: list[Json] = []
        more = ""
        while True:
            page = self.api.call("GET", path, query={"limit": str(PAGE), "continue": more, **(query or {})})
            found += page["items"]
            more = (page.get("metadata") or {}).get("continue") or ""
            if not more:
                return found

    @staticmethod
    def _kind() -> Json:
        return {"apiVersion": metadata.API_VERSION, "kind": "FineTuneJob"}

    def body(self, name: str) -> Json:
        return _tidy(self.raw(name))

    def raw(self, name: str) -> Json:
        """One job with all that the API server knows of it."""
        name = name.rpartition("/")[2]
        try:
            return self.api.call("GET", self.path(name))
        except refusal.Refused as refused:
            if refused.status != 404 or not refused.answer.details.get("name"):
                raise
        known = sorted(body["metadata"]["name"] for body in self.listed(self.path()))
        first = "`topcoat apply -f job.yaml` makes one; -n NAME names another namespace"
        return place.unknown(name, known, self.describe(), first)

    def job(self, name: str) -> finetunejob.FineTuneJob:
        return read(self.raw(name))

    # --- following

    def changes(self, name: str) -> Iterator[finetunejob.FineTuneJob]:
        """Each state of the job until it is settled. An API server that goes away for minutes does no harm."""
        began, answered = time.monotonic(), float("-inf")
        pause, warned = 1.0, False
        while True:
            try:
                for body in self._states(name):
                    answered, pause = time.monotonic(), 1.0
                    job = read(body)
                    yield job
                    if place.settled(job):
                        return
            except terminal.Failure as failure:
                if time.monotonic() - answered > _patience_seconds(failure):
                    raise
                if pause == 1.0:
                    terminal.note(f"{failure.message}; trying again")
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
                continue
            if not warned and job.status is None and time.monotonic() - began > UNSEEN_SECONDS:
                warned = True
                terminal.note("No operator has looked at it yet; `topcoat doctor cluster` says why.")

    def _states(self, name: str) -> Iterator[Json]:
        """The object as it is now, then each change for some seconds."""
        body = self.raw(name)
        yield body
        query = {
            "watch": "1",
            "fieldSelector": f"metadata.name={body['metadata']['name']}",
            "resourceVersion": body["metadata"]["resourceVersion"],
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        for line in self.api.lines(self.path(), query, WATCH_SECONDS + api_server.CALL_SECONDS):
            event = json.loads(line)
            if event["type"] == "DELETED":
                terminal.fail(f"{name!r} was deleted", hint="its sealed versions stay on the volume")
            if event["type"] not in ("ADDED", "MODIFIED"):
                return  # what was to be watched is too old: begin again
            yield event["object"]

    def progress(self, job: finetunejob.FineTuneJob) -> follow.Source:
        return follow.Told()

    # --- what others do for it

    def files(self, job: finetunejob.FineTuneJob, entry: statuses.VersionStatus) -> sealed.Files:
        from topcoat.cli import server_pod

        return server_pod.Files(self, job, entry)

    def served(self, job: finetunejob.FineTuneJob) -> str | None:
        return job.status.served_version if job.status else None

    def ask(self, job: finetunejob.FineTuneJob, text: str, who: Sequence[place.Asked], token: str) -> list[Json]:
        from topcoat.cli import served_answer

        return served_answer.answers(self, job, served_answer.Question(text, token), who)

    def promote(self, job: finetunejob.FineTuneJob, version: str) -> None:
        from topcoat.cli import edit

        edit.promote(self, job, version)

    def rollback(self, job: finetunejob.FineTuneJob, previous: str) -> None:
        from topcoat.cli import edit

        edit.rollback(self, job, previous)

    def unpin(self, job: finetunejob.FineTuneJob) -> None:
        from topcoat.cli import edit

        edit.unpin(self, job)


def _patience_seconds(failure: terminal.Failure) -> float:
    """How long a failure may last before somebody who follows a job gives up."""
    if isinstance(failure, refusal.Unreachable):
        return PATIENCE_SECONDS
    if not isinstance(failure, refusal.Refused):
        return 0.0
    if failure.status in (401, 403):
        return RIGHTS_SECONDS
    return PATIENCE_SECONDS if failure.answer.passing else 0.0


def read(body: Json) -> finetunejob.FineTuneJob:
    """The object as this version of Topcoat understands it."""
    try:
        return finetunejob.FineTuneJob.read(body)
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False)[0]
        field = ".".join(map(str, first["loc"]))
        terminal.fail(
            f"{body['metadata']['name']}: {field}: {first['msg']}",
            hint="the cluster has another version of Topcoat than this command line; `topcoat doctor cluster` compares",
        )


def _tidy(body: Json) -> Json:
    """The object without the API server's book-keeping, as kubectl prints it."""
    meta = {name: value for name, value in body["metadata"].items() if name != "managedFields"}
    return {**body, "metadata": meta}
