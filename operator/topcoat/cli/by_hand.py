"""What a person decides about versions in the local store: one change of status. Nothing is trained."""

from __future__ import annotations

from pathlib import Path

from topcoat.api import finetunejob
from topcoat.api import status as statuses
from topcoat.cli import local, observe, store, terminal
from topcoat.plan import promotion


def by_hand(here: store.Store, name: str, version: str, reason: str, message: str) -> None:
    """The change of status, and the alias moved by the planner that follows from it."""
    with here.changing(name):
        job = here.job(name)
        known = job.status or statuses.FineTuneJobStatus()
        entry = next((one for one in known.versions if one.version == version), None)
        if entry is None:
            has = ", ".join(one.version for one in known.versions) or "none yet"
            terminal.fail(f"{name!r} has no version {version!r}", hint=f"its versions: {has}")
        check_whole(here.version_folder(job, version), entry.digest, "choose another version")
        here.write(job.model_copy(update={"status": promotion.by_hand(known, version, reason, message)}))
    after = local.move_alias(here, name)
    _say(after, version)


def check_whole(folder: Path, digest: str, otherwise: str) -> None:
    """Reads every byte of a version. Fails with the file that is not what was sealed; `otherwise`: a way out."""
    found = observe.version_or_none(folder)
    if found is None:
        terminal.fail("the version is gone", str(folder), otherwise)
    problem = found.problem or observe.full_problem(folder)
    if not problem and found.digest != digest:
        problem = f"its manifest has {found.digest}, recorded is {digest}"
    if problem:
        hint = f"restore the file from a back-up, or {otherwise}"
        terminal.fail(f"{folder.name} is not what was sealed: {problem}", str(folder), hint)


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
