"""`topcoat promote`: serve a version that a person chose. One change of status; nothing is trained."""

from __future__ import annotations

from typing import Annotated

import typer

from topcoat.api import finetunejob, names
from topcoat.api import status as statuses
from topcoat.cli import local, observe, option, store, terminal
from topcoat.plan import promotion

VERSION_HELP = "The version, such as v2; without it the winner that waits, or the newest one that is not promoted."
VersionArgument = Annotated[str | None, typer.Argument(metavar="[VERSION]", help=VERSION_HELP, show_default=False)]


def promote(
    name: option.Job, version: VersionArgument = None, store_folder: option.Store = option.DEFAULT_STORE
) -> None:
    """Serve a version whatever the gate said. `topcoat rollback` takes it back."""
    here = store.Store(store_folder)
    job = here.job(name)
    chosen = version or _default(job)
    known = job.status or statuses.FineTuneJobStatus()
    if known.promoted_version == chosen:
        terminal.say(f"{chosen} is promoted already.")
        terminal.next_step(f"topcoat status {job.metadata.name}")
        return
    by_hand(here, job.metadata.name, chosen, "PromotedByHand", f"{chosen} was promoted by a person")
    verdict = next((one.verdict for one in known.versions if one.version == chosen), None)
    if verdict is not None and verdict != "Promote":
        terminal.note(f"Note: the gate's verdict on {chosen} was {verdict}; `topcoat report {name}` says why.")
    terminal.next_step(f"topcoat rollback {job.metadata.name}", "takes it back")


def _default(job: finetunejob.FineTuneJob) -> str:
    found = [one for one in (job.status.versions if job.status else ()) if one.state != "Promoted"]
    waiting = [one for one in found if one.state == statuses.VersionState.CANDIDATE]
    if not found:
        hint = f"`topcoat status {job.metadata.name}` lists its versions"
        terminal.fail(f"{job.metadata.name!r} has no version that could be promoted", hint=hint)
    return max(waiting or found, key=lambda one: names.run_of(one.version)).version


def by_hand(here: store.Store, name: str, version: str, reason: str, message: str) -> None:
    """The change of status, and the alias moved by the planner that follows from it."""
    with here.changing(name):
        job = here.job(name)
        known = job.status or statuses.FineTuneJobStatus()
        entry = next((one for one in known.versions if one.version == version), None)
        if entry is None:
            has = ", ".join(one.version for one in known.versions) or "none yet"
            terminal.fail(f"{name!r} has no version {version!r}", hint=f"its versions: {has}")
        _check(here, job, entry)
        here.write(job.model_copy(update={"status": promotion.by_hand(known, version, reason, message)}))
    after = local.move_alias(here, name)
    _say(after, version)


def _check(here: store.Store, job: finetunejob.FineTuneJob, entry: statuses.VersionStatus) -> None:
    """Every byte, before anything is changed."""
    folder = here.version_folder(job, entry.version)
    found = observe.version_or_none(folder)
    if found is None:
        terminal.fail("the version is gone", str(folder), "choose another version")
    problem = found.problem or observe.full_problem(folder)
    if not problem and found.digest != entry.digest:
        problem = f"its manifest has {found.digest}, recorded is {entry.digest}"
    if problem:
        hint = "restore the file from a back-up, or choose another version"
        terminal.fail(f"{entry.version} is not what was sealed: {problem}", str(folder), hint)


def _say(job: finetunejob.FineTuneJob, version: str) -> None:
    serves = job.status.served_version if job.status else None
    if serves == version:
        terminal.say(f"{job.alias} answers with {version} now.")
        return
    pinned = job.spec.serving.pinned_version
    if pinned:
        terminal.say(f"{version} is promoted. serving.pinnedVersion keeps {pinned} serving.")
    elif job.spec.serving.mode == "None":
        terminal.say(f"{version} is promoted. serving.mode is None, so nothing serves.")
    else:
        serving = next(
            (one.message for one in (job.status.conditions if job.status else ()) if one.type == "Serving"), ""
        )
        terminal.say(f"{version} is promoted. {terminal.clean(serving)}")
