"""READ SECOND. The whole life of a job: what was seen goes in, what to say and what to do comes out.

Pure and total: it never raises on anything that can be observed, and a plan carried out leaves nothing to do.
"""

from __future__ import annotations

from datetime import datetime

from topcoat.api import finetunejob
from topcoat.plan import dataset, lifecycle, observed, output, profile, promotion, serving, status, training, waiting
from topcoat.plan.case import Case
from topcoat.plan.intent import Plan, Stage


def plan(job: finetunejob.FineTuneJob, seen: observed.Seen, now: datetime) -> Plan:
    """One step of a job's life."""
    case = Case(job, seen, now, before=status.opened(job, now))

    wish = profile.wish(job, seen)  # the manifest, with the profile's defaults and limits
    refused = status.refused(wish)  # what may not be: nothing starts, nothing stops
    blocked = waiting.blocked(case)  # the cluster took nothing: quota, policy
    held = lifecycle.stage(case, wish.spec)  # suspended, or stopped at the terminal
    checked = dataset.stage(case, wish)  # rows and base model, before anything expensive
    trained = training.stage(case, wish, checked)  # the run: start, follow, try again, end
    decided = promotion.stage(case, wish, trained)  # each candidate once
    served = serving.stage(case, wish, decided)  # the alias
    kept = output.stage(case, wish, trained, decided.book)  # history

    told = Stage(
        updates={
            "run": trained.run,
            "promoted_version": decided.book.promoted,
            "previous_version": decided.book.previous,
        }
    )
    stages = [
        refused,
        blocked,
        held,
        checked.stage,
        trained.stage,
        served,
        decided.stage,
        decided.canary.stage,
        kept,
        told,
    ]
    said, events = status.told(case, [*stages, status.settled(stages)])
    waits = [stage.look_again_seconds for stage in stages if stage.look_again_seconds is not None]
    return Plan(
        status=said,
        actions=tuple(action for stage in stages for action in stage.actions),
        events=events,
        look_again_seconds=min(waits, default=None),
        notes=wish.notes,
    )
