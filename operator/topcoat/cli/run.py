"""`topcoat run`: what a manifest asks for, on this machine. The operator's behaviour, with its exit codes for CI."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from topcoat.api import exits, finetunejob
from topcoat.cli import (
    act,
    dry_run,
    follow,
    local,
    local_place,
    manifest,
    observe,
    option,
    sealed,
    show,
    store,
    terminal,
    verdict,
)
from topcoat.plan import status as statuses

ManifestOption = Annotated[
    Path,
    typer.Option("--filename", "-f", metavar="FILE", help="The manifest; - reads standard input.", show_default=False),
]
PickOption = Annotated[
    str | None, typer.Option("--name", help="The job to run, where the file has several.", show_default=False)
]


def run(  # noqa: PLR0913 - each is an option that a person gives
    filename: ManifestOption,
    *,
    name: PickOption = None,
    here: Annotated[bool, typer.Option("--local", help="On this machine; `run` always is.")] = True,  # noqa: ARG001
    dry: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run, with memory, disk and time; change nothing.")
    ] = False,
    output: option.Output = option.Form.TABLE,
    store_folder: option.Store = option.DEFAULT_STORE,
) -> int:
    """Train, judge and serve what a manifest asks for. The same inputs do nothing.

    Exit code: 0 promoted, 2 rejected, 3 inconclusive, 4 stopped at a checkpoint, 1 an error. Where there is nothing
    to do, the last verdict's.
    """
    wanted = manifest.load(filename, name)
    sources = Path.cwd() if str(filename) == "-" else filename.resolve().parent
    place = store.Store(store_folder)
    if dry:
        return dry_run.dry_run(place, wanted, sources)
    job, trained = carry_on(place, wanted, sources, quiet=output not in (option.Form.TABLE, option.Form.WIDE))
    if output in (option.Form.TABLE, option.Form.WIDE):
        conclude(place, job, filename, trained=trained)
        next_step(job, filename)
    else:
        show.objects([job.as_json()], output, one=True)
    return code_of(job)


def code_of(job: finetunejob.FineTuneJob) -> int:
    """The exit code of a job's status."""
    return int(statuses.exit_code(job.status) if job.status else exits.CliExit.ERROR)


def carry_on(
    place: store.Store, wanted: finetunejob.FineTuneJob, sources: Path, *, quiet: bool = False
) -> tuple[finetunejob.FineTuneJob, bool]:
    """Applies the manifest and carries the job on until it is settled; true where anything was trained."""
    job = place.apply(wanted, datetime.now(UTC))
    hands = act.Hands(place, job.metadata.name, sources, observe.Session())
    stream = sys.stderr if quiet else sys.stdout
    source = follow.Files(observe.Places(place.job_folder(job)))
    with follow.audience(job.metadata.name, source, stream) as audience:
        worker = local.Local(place, hands, audience)
        done = worker.carry_on()
    for note in worker.notes:
        terminal.note(f"Note: {note}.")
    return done, worker.trained


def conclude(place: store.Store, job: finetunejob.FineTuneJob, filename: Path, *, trained: bool) -> None:
    """What came of it; fails where it failed."""
    status, name = job.status, job.metadata.name
    if status is None:
        return
    if status.failure is not None:
        raise terminal.Failure(status.failure.message, str(filename) if not status.run else "", status.failure.hint)
    code = code_of(job)
    ready = next(condition for condition in status.conditions if condition.type == "Ready")
    if code == exits.CliExit.INTERRUPTED:
        terminal.say(terminal.clean(ready.message))
        return
    if code == exits.CliExit.ERROR:
        terminal.fail(ready.message, str(filename), f"`topcoat status {name} -o wide` tells more")
    if trained and status.versions:
        found = sealed.latest(local_place.LocalPlace(place.root), job)
        verdict.say(found, found.evaluation())
    else:
        terminal.say(
            f"Nothing to do: data, base model, method and training are as before. {terminal.clean(ready.message)}"
        )


def next_step(job: finetunejob.FineTuneJob, filename: Path) -> None:
    """The last line: what to try now."""
    name, code = job.metadata.name, code_of(job)
    served = job.status.served_version if job.status else None
    if code == exits.CliExit.INTERRUPTED:
        terminal.next_step(f"topcoat run -f {filename}", "goes on")
    elif code in (exits.CliExit.REJECTED, exits.CliExit.INCONCLUSIVE) or served is None:
        terminal.next_step(f"topcoat report {name}", "says why")
    else:
        terminal.next_step(f'topcoat ask {name} "…"', f"asks {served}; with --base the base model")
