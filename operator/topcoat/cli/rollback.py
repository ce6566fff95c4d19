"""`topcoat rollback`: serve the version before. One change of status; a second roll-back takes it back."""

from __future__ import annotations

from topcoat.cli import option, promote, store, terminal


def rollback(name: option.Job, store_folder: option.Store = option.DEFAULT_STORE) -> None:
    """Serve the version that was promoted before this one. Nothing is trained or deleted."""
    here = store.Store(store_folder)
    job = here.job(name)
    previous = job.status.previous_version if job.status else None
    if previous is None:
        known = ", ".join(one.version for one in (job.status.versions if job.status else ()))
        hint = f"`topcoat promote {name} VERSION` serves one of {known}" if known else "nothing was promoted yet"
        terminal.fail(f"{name!r} has no version before this one", hint=hint)
    now = job.status.promoted_version if job.status else None
    message = f"a person went back from {now} to {previous}"
    promote.by_hand(here, job.metadata.name, previous, "RolledBack", message)
    terminal.next_step(f"topcoat rollback {job.metadata.name}", f"goes forward to {now} again")
