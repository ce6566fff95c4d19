"""`topcoat logs`: what the pods of a job say. Found by their labels; the newest pod of the role is meant."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from topcoat.api import finetunejob, names
from topcoat.cli import cluster, option, place, refusal, server_pod, terminal
from topcoat.manifests import metadata as labels

Json = dict[str, Any]
FOLLOW_SECONDS = 3600.0
INDEX = "batch.kubernetes.io/job-completion-index"
JOB_NAME = "batch.kubernetes.io/job-name"


class Role(StrEnum):
    """Pods that say something."""

    PREPARE = "prepare"
    TRAIN = "train"
    SERVER = "server"


RoleOption = Annotated[
    Role | None, typer.Option("--role", help="Which pods; by default the job's newest.", show_default=False)
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the pod ends.")]
PREVIOUS_HELP = "The attempt before; of a server: before the last restart of its container."
TailOption = Annotated[int, typer.Option("--tail", min=1, metavar="LINES", help="Lines at most, from the end.")]


@place.given_cluster
def logs(  # noqa: PLR0913 - each is an option that a person gives
    name: option.Job,
    *,
    role: RoleOption = None,
    follow: FollowOption = False,
    previous: Annotated[bool, typer.Option("--previous", "-p", help=PREVIOUS_HELP)] = False,
    tail: TailOption = 1000,
    here: cluster.Cluster,
) -> None:
    """Print the log of a job's pod: of the newest, or of the newest with a role."""
    job = here.job(name)
    chosen = _pod(job, _pods(here, job, role), role, previous=previous)
    query = {"tailLines": str(tail), "container": chosen["spec"]["containers"][0]["name"]}
    query |= {"follow": "true"} if follow else {}
    query |= {"previous": "true"} if previous and role is Role.SERVER else {}
    terminal.note(f"{chosen['metadata']['name']}:")
    _print(here, job, chosen, query)


def _pods(here: cluster.Cluster, job: finetunejob.FineTuneJob, role: Role | None) -> list[Json]:
    """Pods of the job, newest first; several of one Job begin with the first."""
    path = f"/api/v1/namespaces/{here.namespace}/pods"
    selector = f"{labels.JOB}={names.label(job.metadata.name)}" + (f",{labels.ROLE}={role.value}" if role else "")
    if role is Role.SERVER:
        selector = f"{labels.SERVER}={server_pod.server_of(job)},{labels.ROLE}={role.value}"
    found = here.listed(path, {"labelSelector": selector})
    return sorted(sorted(found, key=_index), key=lambda body: str(body["metadata"]["creationTimestamp"]), reverse=True)


def _index(body: Json) -> int:
    return int(body["metadata"]["labels"].get(INDEX, 0))


def _pod(job: finetunejob.FineTuneJob, found: list[Json], role: Role | None, *, previous: bool) -> Json:
    if previous and role is not Role.SERVER and found:
        newest = found[0]["metadata"]["labels"].get(JOB_NAME)
        found = [body for body in found if body["metadata"]["labels"].get(JOB_NAME) != newest]
    if found:
        return found[0]
    name = job.metadata.name
    what = f"{'earlier ' if previous else ''}{role.value if role else ''} pod".replace("  ", " ").strip()
    ready = next((one for one in (job.status.conditions if job.status else ()) if one.type == "Ready"), None)
    why = f": {terminal.clean(ready.message)}" if ready else ": no operator has looked at the job yet"
    hint = f"`topcoat status {name} -o wide` says how far it is; logs go when their pod is deleted"
    return terminal.fail(f"{name!r} has no {what}{why}", hint=hint)


def _print(here: cluster.Cluster, job: finetunejob.FineTuneJob, pod: Json, query: dict[str, str]) -> None:
    name = pod["metadata"]["name"]
    path = f"/api/v1/namespaces/{here.namespace}/pods/{name}/log"
    silent = True
    try:
        for line in here.api.lines(path, query, FOLLOW_SECONDS):
            silent = False
            text = line.decode(errors="replace")
            terminal.say(terminal.clean(text) if terminal.is_terminal() else text)
        why = _not_started(pod) if silent else ""
    except KeyboardInterrupt:
        return
    except refusal.Refused as refused:
        if refused.status not in (400, 404, 500):
            raise
        why = refused.answer.message
    if why:
        hint = f"`topcoat status {job.metadata.name} -o wide` says what it waits for"
        terminal.fail(f"pod {name!r} has no log: {why}", hint=hint)


def _not_started(pod: Json) -> str:
    said = pod.get("status") or {}
    if said.get("phase") != "Pending":
        return ""
    waits = (one.get("message") for one in said.get("conditions") or [] if one.get("status") == "False")
    return str(next((wait for wait in waits if wait), "it has not started yet"))
