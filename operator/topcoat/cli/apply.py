"""`topcoat apply`: a manifest to a cluster, by server-side apply, strictly; with --watch to the verdict, for CI.

Checked here first, with file, line and column; the API server has the last word.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from topcoat.api import exits, finetunejob
from topcoat.cli import (
    api_server,
    cluster,
    dry_apply,
    manifest,
    option,
    place,
    refusal,
    show,
    status,
    terminal,
    watch,
)
from topcoat.plan import status as statuses

Json = dict[str, Any]
UNKNOWN_FIELD = re.compile(r'unknown field "([^"]+)"')
OWNER = re.compile(r'conflict with "([^"]+)"')
ManifestOption = Annotated[
    Path,
    typer.Option("--filename", "-f", metavar="FILE", help="The manifest; - reads standard input.", show_default=False),
]
PickOption = Annotated[
    str | None, typer.Option("--name", help="The job to apply, where the file has several.", show_default=False)
]
WatchOption = Annotated[bool, typer.Option("--watch", help="Follow the job to its verdict.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Say what would be made; change nothing.")]
ForceOption = Annotated[
    bool, typer.Option("--force-conflicts", help="Take fields over that somebody else has set to another value.")
]


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be applied, and how."""

    manifest: manifest.Manifest
    dry: bool = False
    force: bool = False


@place.given_cluster
def apply(  # noqa: PLR0913 - each is an option that a person gives
    filename: ManifestOption,
    *,
    name: PickOption = None,
    follow: WatchOption = False,
    dry: DryOption = False,
    force: ForceOption = False,
    output: option.Output = option.Form.TABLE,
    here: cluster.Cluster,
) -> int:
    """Apply a manifest to the cluster. Unknown fields are refused.

    With --watch the exit code is the verdict: 0 promoted, 2 rejected, 3 inconclusive, 4 suspended or no longer
    watched, 1 an error. Where nothing changed, the last verdict's. Without --watch: 0 once it is applied.
    """
    wish = Wish(manifest.read(filename, name), dry, force)
    plain = output in (option.Form.TABLE, option.Form.WIDE)
    before, body = sent(here, wish)
    job = cluster.read(body)
    if dry:
        return dry_apply.say(here, job, _change(before, body))
    if plain:
        _say(here, wish, before, job, body)
    if follow:
        return _followed(here, job, filename, output)
    if plain:
        terminal.next_step(f"topcoat watch {job.metadata.name}{here.words}", "follows the run")
    else:
        show.objects([here.body(job.metadata.name)], output, one=True)
    return 0


def sent(here: cluster.Cluster, wish: Wish) -> tuple[Json | None, Json]:
    """The object as it was, and as it is after the apply (or would be)."""
    body = wish.manifest.body
    named = (body.get("metadata") or {}).get("namespace")
    if named and here.asked_namespace and named != here.asked_namespace:
        place_of = wish.manifest.where("metadata.namespace")
        hint = "leave one of the two out"
        terminal.fail(f"the manifest is for namespace {named!r}, -n says {here.asked_namespace!r}", place_of, hint)
    if named:
        here.api.namespace = named
    name = wish.manifest.job.metadata.name
    before = here.api.get_or_none(here.path(name))
    body = {**body, "metadata": {**body["metadata"], "namespace": here.namespace}}
    return before, _sent(here, wish, body, force=wish.force)


def _sent(here: cluster.Cluster, wish: Wish, body: Json, *, force: bool) -> Json:
    query = {"fieldManager": cluster.MANAGER, "fieldValidation": "Strict", "force": "true" if force else "false"}
    query |= {"dryRun": "All"} if wish.dry else {}
    path = here.path(body["metadata"]["name"])
    try:
        return here.api.call("PATCH", path, body, query=query, content_type=api_server.APPLY)
    except refusal.Refused as refused:
        owners = {OWNER.findall(str(cause.get("message")))[0] for cause in _conflicts(refused)}
        if owners and owners == {cluster.MANAGER} and not force:
            # Our own edits by `promote` and the like: the manifest is newer.
            return _sent(here, wish, body, force=True)
        raise _placed(refused, wish.manifest) from None


def _conflicts(refused: refusal.Refused) -> list[Json]:
    found = refused.answer.causes if refused.status == 409 else []
    return [cause for cause in found if OWNER.search(str(cause.get("message")))]


def _placed(refused: refusal.Refused, wanted: manifest.Manifest) -> terminal.Failure:
    """The refusal with the places in the file that it is about."""
    unknown = UNKNOWN_FIELD.findall(refused.answer.message) if refused.status == 400 else []
    if unknown:
        said = [f"the cluster's CRD has no field {field!r}" for field in unknown]
        hint = "the cluster has an older Topcoat: leave the field out, or upgrade; `topcoat doctor cluster` compares"
        return _listed(said, [wanted.where(field) for field in unknown], hint)
    conflicts = _conflicts(refused)
    if conflicts:
        fields = [str(cause.get("field", "")).lstrip(".") for cause in conflicts]
        said = [
            f"{field} was set to another value by {OWNER.findall(str(cause['message']))[0]!r}"
            for field, cause in zip(fields, conflicts, strict=True)
        ]
        hint = "change it where they keep it, or take it over with --force-conflicts"
        return _listed(said, [wanted.where(field) for field in fields], hint)
    causes = refused.answer.causes if refused.status == 422 else []
    if causes:
        fields = [str(cause.get("field", "")) for cause in causes]
        said = [f"{cause.get('field')}: {cause.get('message')}" for cause in causes]
        return _listed(said, [wanted.where(field) for field in fields], "change the field and apply again")
    return refused


def _listed(said: list[str], places: list[str], hint: str) -> terminal.Failure:
    first, *others = dict.fromkeys(zip(said, places, strict=True))
    message = "\n       ".join([first[0], *(f"{where}: {text}" for text, where in others)])
    return terminal.Failure(message, first[1], hint)


def _change(before: Json | None, after: Json) -> str:
    if before is None:
        return "created"
    same = before["metadata"].get("generation") == after["metadata"].get("generation")
    same = (
        same and before["spec"] == after["spec"] and before["metadata"].get("labels") == after["metadata"].get("labels")
    )
    return "unchanged" if same else "configured"


def _say(here: cluster.Cluster, wish: Wish, before: Json | None, job: finetunejob.FineTuneJob, body: Json) -> None:
    name = job.metadata.name
    terminal.say(f"finetunejob.topcoat.dev/{name} {_change(before, body)} in {here.describe()}")
    for other in wish.manifest.others:
        terminal.note(f"Note: {other} is left out; `kubectl apply -f` makes it.")
    pinned, written = job.spec.serving.pinned_version, wish.manifest.job.spec.serving.pinned_version
    if pinned and not written:
        undo = f"`topcoat rollback {name} --unpin` ends it"
        terminal.note(f"Note: serving.pinnedVersion {pinned} was set by hand and stays; {undo}.")


def _followed(here: cluster.Cluster, job: finetunejob.FineTuneJob, filename: Path, output: option.Form) -> int:
    """Follows to the verdict."""
    plain = output in (option.Form.TABLE, option.Form.WIDE)
    name = job.metadata.name
    try:
        job = watch.followed(here, job, sys.stdout if plain else sys.stderr)
    except KeyboardInterrupt:
        terminal.note("No longer watching; the job goes on.")
        terminal.next_step(f"topcoat watch {name}{here.words}", "follows it again")
        return int(exits.CliExit.INTERRUPTED)
    code = int(statuses.exit_code(job.status)) if job.status else int(exits.CliExit.ERROR)
    if not plain:
        show.objects([here.body(name)], output, one=True)
        return code
    _conclude(here, job, filename, code)
    return code


def _conclude(here: cluster.Cluster, job: finetunejob.FineTuneJob, filename: Path, code: int) -> None:
    found, name = job.status, job.metadata.name
    if found is None:
        return
    if found.failure is not None:
        raise terminal.Failure(found.failure.message, str(filename) if not found.run else "", found.failure.hint)
    ready = next((one.message for one in found.conditions if one.type == "Ready"), "")
    if code == exits.CliExit.ERROR:
        terminal.fail(ready, str(filename), f"`topcoat status {name} -o wide{here.words}` tells more")
    if code == exits.CliExit.INTERRUPTED:
        terminal.next_step(f"topcoat resume {name}{here.words}", "goes on")
        return
    terminal.say()
    status.evidence(found)
    if found.served_version is None:
        terminal.next_step(f"topcoat report {name}{here.words}", "says why")
    else:
        terminal.next_step(f'topcoat ask {name} "…"{here.words}', f"asks {found.served_version}")
