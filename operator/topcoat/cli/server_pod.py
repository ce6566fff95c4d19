"""A ready pod of a job's model server, as people reach it: by port-forward to ask, by `cat` to read sealed files.

With the person's own rights. Changes nothing in the pod; every stream has a time limit.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from topcoat.api import finetunejob, server
from topcoat.api import status as statuses
from topcoat.cli import cluster, sealed, terminal
from topcoat.manifests import claim
from topcoat.manifests import metadata as labels

Json = dict[str, Any]
CONTAINER = "server"
READ_SECONDS = 60.0
LIMIT_BYTES = 256 << 20
STDOUT, STDERR = 1, 2


class Absent(terminal.Failure):
    """No pod can be asked."""


def name_of(here: cluster.Cluster, job: finetunejob.FineTuneJob) -> str:
    """A ready pod of the server that the job's endpoint names."""
    name = job.metadata.name
    wanted = server_of(job)
    if not wanted:
        hint = f"`topcoat status {name}` says how far it is"
        raise Absent(f"no model server answers for {name!r} yet", hint=hint)
    path = f"/api/v1/namespaces/{here.namespace}/pods"
    found = here.listed(path, {"labelSelector": f"{labels.SERVER}={wanted},{labels.ROLE}={labels.Role.SERVER.value}"})
    ready = sorted(body["metadata"]["name"] for body in found if _ready(body))
    if not ready:
        hint = f"`topcoat logs {name} --role server` shows what it says"
        raise Absent(f"no pod of model server {wanted!r} is ready", hint=hint)
    return str(ready[0])


def server_of(job: finetunejob.FineTuneJob) -> str:
    """Name of the ModelServer, from the endpoint that status tells; empty while there is none."""
    url = job.status.endpoint.url if job.status and job.status.endpoint else ""
    return url.removeprefix("http://").partition(".")[0]


def _ready(body: Json) -> bool:
    said = (body.get("status") or {}).get("conditions") or []
    return "deletionTimestamp" not in body["metadata"] and any(
        one["type"] == "Ready" and one["status"] == "True" for one in said
    )


@contextlib.contextmanager
def forwarded(here: cluster.Cluster, pod: str) -> Iterator[socket.socket]:
    """A connection to the clients' port of a pod.

    Through the kubelet: the API server's Service proxy would keep the Authorization header for itself, and the network
    policy of the servers does not let it in.
    """
    from kubernetes import client, stream

    core = client.CoreV1Api(here.api.api)
    with _plain_words("port-forward", pod):
        forward = stream.portforward(
            core.connect_get_namespaced_pod_portforward, pod, here.namespace, ports=str(server.CLIENT_PORT)
        )
    line = forward.socket(server.CLIENT_PORT)
    try:
        yield cast("socket.socket", line)
    finally:
        with contextlib.suppress(OSError):
            line.close()


@dataclass(slots=True)
class Files:
    """The files of a version, read through a pod that has their claim mounted."""

    here: cluster.Cluster
    job: finetunejob.FineTuneJob
    entry: statuses.VersionStatus
    _pod: str = ""

    def where(self, name: str) -> str:
        return f"{self.entry.path}/{name}"

    def folder(self) -> Path:
        terminal.fail(
            "the files of this version are not on this machine",
            self.entry.path,
            "mount the claim in a pod of your own; `topcoat report` and `compare` show what was judged",
        )

    def read_or_none(self, name: str) -> bytes | None:
        try:
            self._pod = self._pod or name_of(self.here, self.job)
            return _cat(self.here, self._pod, f"{claim.folder_in_server(self.entry.path)}/{name}")
        except Absent as why:
            name_of_claim = self.entry.path.removeprefix("pvc://").partition("/")[0]
            hint = f"It lies on the claim {name_of_claim}, which a pod of your own can mount"
            raise sealed.OutOfReach(why.message, self.where(name), hint) from None


def _cat(here: cluster.Cluster, pod: str, path: str) -> bytes | None:
    """A file's bytes; None where there is none."""
    from kubernetes import client, stream

    core = client.CoreV1Api(here.api.api)
    with _plain_words("exec", pod):
        said = stream.stream(
            core.connect_get_namespaced_pod_exec,
            pod,
            here.namespace,
            container=CONTAINER,
            command=["cat", "--", path],
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            binary=True,
            _preload_content=False,
        )
        try:
            found = _all(said, path)
            return found if said.returncode == 0 else None
        finally:
            said.close()
            said.sock.shutdown()  # a web socket that the other side has closed keeps its connection open


def _all(said: Any, path: str) -> bytes:
    """What the command writes until it ends."""
    parts, size, until = [], 0, time.monotonic() + READ_SECONDS
    while said.is_open():
        said.update(timeout=1)
        part = said.read_channel(STDOUT)
        parts.append(part)
        size += len(part)
        if size > LIMIT_BYTES:
            raise Absent(f"{path} is larger than {LIMIT_BYTES >> 20} MiB", hint="mount its claim in a pod of your own")
        if time.monotonic() > until:
            raise Absent(f"{path} was not read within {READ_SECONDS:.0f} s", hint="try again")
    return b"".join([*parts, said.read_channel(STDOUT)])


@contextlib.contextmanager
def _plain_words(what: str, pod: str) -> Iterator[None]:
    from kubernetes.client import exceptions

    try:
        yield
    except exceptions.ApiException as error:
        said = f"{error.status} {error.reason} {error.body}"
        if "403" in said:
            hint = f"ask for the right to `create` pods/{what.replace('-', '')}; the role `edit` has it"
            raise Absent(f"you may not {what} to pods in this namespace", hint=hint) from None
        text = " ".join(str(error.reason or error).split())[:200]
        raise Absent(f"pod {pod!r} cannot be reached: {text}", hint="is it running? try again") from None
