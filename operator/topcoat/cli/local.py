"""Local mode: what the operator does, on one machine. Observe, plan, act, until nothing is left to do.

The same plan as in a cluster; only eyes (observe.py) and hands (act.py) differ.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from topcoat.api import finetunejob
from topcoat.cli import act, durable, observe, store, terminal
from topcoat.plan import intent, observed, plan

POLL_SECONDS = 0.05
PLAN_SECONDS = 0.5
ALIAS_ACTIONS = (intent.PointAlias, intent.DropAlias)


class Audience(Protocol):
    """Whoever follows a run."""

    def hear(self, job: finetunejob.FineTuneJob, planned: intent.Plan) -> None:
        """One step of the run."""


@dataclass(slots=True)
class Local:
    """One job carried on in one store."""

    here: store.Store
    hands: act.Hands
    audience: Audience
    trained: bool = False
    """Whether an attempt was started or followed here."""
    notes: tuple[str, ...] = ()
    """What the manifest asks for and local mode leaves out."""

    def carry_on(self) -> finetunejob.FineTuneJob:
        """Plans and acts until the job is settled; returns it as it is then."""
        name = self.hands.name
        lock = durable.take_or_none(self.here.run_lock(name))
        if lock is None:
            hint = f"`topcoat watch {name}` follows it; Ctrl-C there ends only the watching"
            terminal.fail(f"another `topcoat run` carries out {name!r} in the store {self.here.root}", hint=hint)
        try:
            with act.listening(self.hands):
                return self._carry_on()
        finally:
            os.close(lock)

    def _carry_on(self) -> finetunejob.FineTuneJob:
        while True:
            job, seen, planned = step(self.here, self.hands.name, self.hands.session)
            self.audience.hear(job, planned)
            self.notes = planned.notes
            moved = [self.hands.carry_out(job, action) for action in planned.actions]
            active = seen.attempt is not None and seen.attempt.state is not observed.AttemptState.ENDED
            self.trained = self.trained or active or bool(self.hands.session.running)
            if any(moved):
                continue
            if self.hands.child is None and not active and self._is_over(planned):
                return job
            self._wait(job)

    def _is_over(self, planned: intent.Plan) -> bool:
        """Nothing to do, and nothing that time alone would change; or nothing may be done any more."""
        return self.hands.session.stopping or (not planned.actions and planned.look_again_seconds is None)

    def _wait(self, job: finetunejob.FineTuneJob) -> None:
        """Until a child ends, somebody wants to stop, or it is time to look again."""
        until = time.monotonic() + PLAN_SECONDS
        stopping = self.hands.session.stopping
        while time.monotonic() < until and self.hands.session.stopping == stopping:
            if self.hands.reap(job):
                return
            time.sleep(POLL_SECONDS)


def step(
    here: store.Store, name: str, session: observe.Session
) -> tuple[finetunejob.FineTuneJob, observed.Seen, intent.Plan]:
    """Observe and plan once; the new status is kept. Others may change the object between two steps."""
    with here.changing(name):
        job = here.job(name)
        seen = observe.seen(here, job, session)
        planned = plan.plan(job, seen, datetime.now(UTC))
        if planned.status != job.status:
            job = job.model_copy(update={"status": planned.status})
            here.write(job)
    return job, seen, planned


def move_alias(here: store.Store, name: str) -> finetunejob.FineTuneJob:
    """Carries out what concerns the alias and nothing else; a `topcoat run` under way does it in our place."""
    session = observe.Session(asked=False)
    hands = act.Hands(here, name, here.root, session)
    lock = durable.take_or_none(here.run_lock(name))
    if lock is None:
        time.sleep(4 * PLAN_SECONDS)
        return here.job(name)
    try:
        for _ in range(4):
            session.stopping = _was_stopped(here.job(name))
            job, _, planned = step(here, name, session)
            moves = [action for action in planned.actions if isinstance(action, ALIAS_ACTIONS)]
            if not moves:
                return job
            for action in moves:
                hands.carry_out(job, action)
        return here.job(name)
    finally:
        os.close(lock)


def _was_stopped(job: finetunejob.FineTuneJob) -> bool:
    """A run that was stopped at the terminal stays stopped."""
    return job.status is not None and job.status.phase == "Suspended" and not job.spec.suspend
