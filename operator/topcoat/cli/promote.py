"""`topcoat promote`: serve a version that a person chose. In a cluster it is an edit of the spec."""

from __future__ import annotations

from typing import Annotated

import typer

from topcoat.api import finetunejob, names
from topcoat.api import status as statuses
from topcoat.cli import option, place, terminal

VERSION_HELP = "The version, such as v2; without it the winner that waits, or the newest one that is not promoted."
VersionArgument = Annotated[str | None, typer.Argument(metavar="[VERSION]", help=VERSION_HELP, show_default=False)]


@place.given
def promote(name: option.Job, version: VersionArgument = None, *, here: place.Place) -> None:
    """Serve a version whatever the gate said. `topcoat rollback` takes it back.

    In a cluster this sets promotion.approvedVersion (with promotion.policy Manual) or serving.pinnedVersion, and says
    which lines belong in Git.
    """
    job = here.job(name)
    chosen = version or _default(job)
    known = job.status or statuses.FineTuneJobStatus()
    if chosen not in [one.version for one in known.versions]:
        has = ", ".join(one.version for one in known.versions) or "none yet"
        terminal.fail(f"{job.metadata.name!r} has no version {chosen!r}", hint=f"its versions: {has}")
    here.promote(job, chosen)
    verdict = next((one.verdict for one in known.versions if one.version == chosen), None)
    if verdict is not None and verdict != "Promote" and known.promoted_version != chosen:
        terminal.note(f"Note: the gate's verdict on {chosen} was {verdict}; `topcoat report {name}` says why.")


def _default(job: finetunejob.FineTuneJob) -> str:
    found = [one for one in (job.status.versions if job.status else ()) if one.state != "Promoted"]
    waiting = [one for one in found if one.state == statuses.VersionState.CANDIDATE]
    if not found:
        hint = f"`topcoat status {job.metadata.name}` lists its versions"
        terminal.fail(f"{job.metadata.name!r} has no version that could be promoted", hint=hint)
    return max(waiting or found, key=lambda one: names.run_of(one.version)).version
