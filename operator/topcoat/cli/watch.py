"""`topcoat watch`: how far a job is, until it is settled. Only reads; ending it ends nothing else."""

from __future__ import annotations

import sys
from typing import TextIO

from topcoat.api import finetunejob
from topcoat.cli import follow, option, place, terminal
from topcoat.plan import intent


@place.given
def watch(name: option.Job, *, here: place.Place) -> None:
    """Follow a run: progress, time to go, loss curve. Ctrl-C ends the watching, not the run."""
    job = here.job(name)
    try:
        job = followed(here, job, sys.stdout)
    except KeyboardInterrupt:
        terminal.say("No longer watching; the run goes on.")
        terminal.next_step(f"topcoat status {job.metadata.name}{here.words}")
        return
    if not place.settled(job):
        terminal.say("Nobody carries this job on at the moment.")
        terminal.next_step(*here.runner)
        return
    terminal.next_step(f"topcoat status {job.metadata.name}{here.words}")


def followed(here: place.Place, job: finetunejob.FineTuneJob, stream: TextIO) -> finetunejob.FineTuneJob:
    """The job as it is when it is settled; what happens until then is told."""
    said = ""
    with follow.audience(job.metadata.name, here.progress(job), stream) as audience:
        for job in here.changes(job.metadata.name):  # noqa: B020, PLR1704 - the newest state is what counts
            if job.status is None:
                continue
            ready = next((one for one in job.status.conditions if one.type == "Ready"), None)
            news = ready.message if ready is not None and ready.message != said else ""
            events = (intent.Event("Normal", ready.reason, news),) if ready is not None and news else ()
            said = ready.message if ready is not None else said
            audience.hear(job, intent.Plan(job.status, events=events))
    return job
