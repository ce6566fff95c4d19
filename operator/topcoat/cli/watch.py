"""`topcoat watch`: how far a job is, until it is settled. Only reads; ending it ends nothing else."""

from __future__ import annotations

import sys
import time

from topcoat.api import finetunejob
from topcoat.cli import durable, follow, option, store, terminal
from topcoat.plan import intent

LOOK_SECONDS = 0.5
LONGEST_START_SECONDS = 2.0


def watch(name: option.Job, store_folder: option.Store = option.DEFAULT_STORE) -> None:
    """Follow a run: progress, time to go, loss curve. Ctrl-C ends the watching, not the run."""
    here = store.Store(store_folder)
    job = here.job(name)
    try:
        with follow.audience(here, job, sys.stdout) as audience:
            job = _follow(here, job, audience)
    except KeyboardInterrupt:
        terminal.say("No longer watching; the run goes on.")
    _conclude(job)


def _follow(
    here: store.Store, job: finetunejob.FineTuneJob, audience: follow.Lines | follow.View
) -> finetunejob.FineTuneJob:
    """Looks at the object again and again; whoever carries the job on writes it."""
    name, said = job.metadata.name, ""
    since = time.monotonic()
    while True:
        job = here.job(name)
        if job.status is not None:
            ready = next((one for one in job.status.conditions if one.type == "Ready"), None)
            news = ready.message if ready is not None and ready.message != said else ""
            events = (intent.Event("Normal", ready.reason, news),) if ready is not None and news else ()
            said = ready.message if ready is not None else said
            audience.hear(job, intent.Plan(job.status, events=events))
        carried_on = durable.is_taken(here.run_lock(name))
        if not carried_on and time.monotonic() - since > (0 if _settled(job) else LONGEST_START_SECONDS):
            return job
        time.sleep(LOOK_SECONDS)


def _settled(job: finetunejob.FineTuneJob) -> bool:
    conditions = job.status.conditions if job.status else ()
    return any(one.type == "Reconciling" and one.status == "False" for one in conditions)


def _conclude(job: finetunejob.FineTuneJob) -> None:
    name = job.metadata.name
    if not _settled(job):
        terminal.say("Nobody carries this job on at the moment.")
        terminal.next_step("topcoat run -f job.yaml --local", "goes on where it stopped")
        return
    terminal.next_step(f"topcoat status {name}")
