"""`topcoat rollback`: serve the version before. Nothing is trained; in a cluster it is an edit of the spec."""

from __future__ import annotations

from typing import Annotated

import typer

from topcoat.cli import option, place, terminal

UNPIN_HELP = "In a cluster: take the pin away, so that the promoted version serves again."


@place.given
def rollback(
    name: option.Job,
    *,
    unpin: Annotated[bool, typer.Option("--unpin", help=UNPIN_HELP)] = False,
    here: place.Place,
) -> None:
    """Serve the version that was promoted before this one. Nothing is trained or deleted.

    In a cluster this sets serving.pinnedVersion, and says which lines belong in Git; --unpin takes it back.
    """
    job = here.job(name)
    if unpin:
        here.unpin(job)
        return
    previous = job.status.previous_version if job.status else None
    if previous is None:
        known = ", ".join(one.version for one in (job.status.versions if job.status else ()))
        hint = f"`topcoat promote {name} VERSION` serves one of {known}" if known else "nothing was promoted yet"
        terminal.fail(f"{name!r} has no version before this one", hint=hint)
    here.rollback(job, previous)
