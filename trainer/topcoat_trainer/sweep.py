"""`training.sweep`: trials of learning rates and ranks by successive halving; the best is trained to its end.

Each trial follows the schedule of the whole run and goes on from its own checkpoints, so the winner is bit for bit what
a run with its values alone would be. Trials are compared on training rows set aside; the gate's rows are never read.
A comparison that was made is written down and not made again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from topcoat.api.method import Method, MethodType
from topcoat.api.report import SweepTrial
from topcoat.api.run import RunFile
from topcoat_trainer import halving, stage, trial
from topcoat_trainer.adapter import Tail
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.errors import Diverged
from topcoat_trainer.halving import Rung
from topcoat_trainer.loop.course import Course, Trained
from topcoat_trainer.loop.loop import Loop, NotFinite
from topcoat_trainer.progress import Part
from topcoat_trainer.stage import Cached, Learnt, Material
from topcoat_trainer.trial import Trial

if TYPE_CHECKING:
    from topcoat_trainer.run import Job

logger = logging.getLogger(__name__)

FILE = "trials.json"
FOLDER = "trials"


@dataclass(frozen=True, slots=True)
class Values:
    """What one trial tries. `rate`: None for the method's own default."""

    method: Method
    rate: float | None

    @property
    def words(self) -> str:
        rank = "" if self.method.type is MethodType.FULL else f", rank {self.method.lora.rank}"
        return f"learning rate {self.rate:g}{rank}" if self.rate is not None else f"the default learning rate{rank}"


def tried(run: RunFile) -> list[Values]:
    """All pairs, in the manifest's order: rates within ranks. Without a sweep, the manifest's own values alone."""
    wishes, training = run.training.sweep, run.training
    rates = [float(rate) for rate in wishes.learning_rates] if wishes else []
    own = None if training.learning_rate is None else float(training.learning_rate)
    ranks = wishes.ranks if wishes else ()
    return [
        Values(_ranked(run.method, rank), rate) for rank in ranks or (run.method.lora.rank,) for rate in rates or (own,)
    ]


def middle(run: RunFile) -> Values:
    """The values in the middle: what layers are chosen with."""
    found = tried(run)
    ranks = sorted({values.method.lora.rank for values in found})
    rates = sorted({values.rate for values in found if values.rate is not None})
    rate = rates[(len(rates) - 1) // 2] if rates else None
    return Values(_ranked(run.method, ranks[(len(ranks) - 1) // 2]), rate)


def _ranked(method: Method, rank: int) -> Method:
    return method.model_copy(update={"lora": method.lora.model_copy(update={"rank": rank})})


class Contest:
    """All trials of one run on one boundary."""

    def __init__(self, job: Job, material: Material, edge: Boundary, cached: Cached | None) -> None:
        self.job, self.material, self.edge, self.cached = job, material, edge, cached
        self.values = tried(job.run)
        self.settings = stage.settings(job, material)
        self.steps = self.settings.order(len(material.rows)).total_steps
        self.rungs = halving.rungs(len(self.values), self.steps)
        self.identity = f"{stage.identity(job, material)}/{FOLDER}/{edge.first_trained}"
        found = trial.record(job, FILE, self.identity)
        self.decided: list[dict[str, Any]] = found.get("rungs", [])
        self.out: dict[str, str] = found.get("out", {})
        self.seconds: dict[str, float] = found.get("seconds", {})
        self._left_at: dict[int, int] = {}
        self._whole = self.steps * halving.trainings(self.rungs, len(self.values), self.steps)
        self._spent = 0.0
        for before, rung in zip((None, *self.rungs), self.rungs[: len(self.decided)], strict=False):
            started = len(self.values) if before is None else before.kept
            self._spent += started * (rung.step - (before.step if before else 0))
        self._resumed_from: dict[int, int | None] = {}
        self._start = ""

    def open(self) -> None:
        """Fills the activation cache, if anything is left to train."""
        if self.cached is None and self._unfinished():
            self.cached = trial.caches_at(self.job, self.material, [self.edge])[self.edge]

    def _unfinished(self) -> bool:
        if len(self.decided) < len(self.rungs):
            return True
        tail, course = trial.begun(self.job, self.material, self._trial(self._alive()[0]))
        try:
            return Loop(course).resume()
        finally:
            tail.detach()

    def hold(self) -> None:
        """All comparisons that are not made yet."""
        for rung in self.rungs[len(self.decided) :]:
            losses = {index: loss for index in self._alive() if (loss := self._compared(index, rung)) is not None}
            self._demand_any(losses)
            order = halving.best(losses, {index: float(values.method.lora.rank) for index, values in self._indexed()})
            kept = order[: rung.kept]
            self.decided.append(
                {"step": rung.step, "losses": {str(index): losses[index] for index in order}, "kept": kept}
            )
            self._keep()
            logger.info("after step %d trials %s go on", rung.step, ", ".join(_name(index) for index in kept))
            if rung is not self.rungs[-1]:
                self._forget([index for index in order if index not in kept])

    def finish(self) -> tuple[int, Learnt]:
        """The best trial, trained to its end; the next best where it diverges on the way."""
        for index in self._finalists():
            tail, course = self._begun(index)
            loop = self._loop(index, course)
            try:
                loop.run(self.steps)
                trained = loop.run()
            except NotFinite as error:
                self._put_out(index, str(error))
            except Diverged as error:
                if not self.job.ranks.agreed and not self.job.ranks.alone:
                    raise  # only the first rank knows that nothing was learnt
                self._put_out(index, error.message)
            else:
                return index, Learnt(tail, self._told(index, trained), (self._start, *trained.notes), course)
            tail.detach()
            self._keep()
        self._demand_any({})
        raise AssertionError("unreachable")

    def table(self, winner: int) -> tuple[SweepTrial, ...]:
        """The trials as the report tells them."""
        rows = []
        for index, values in self._indexed():
            last = next((rung for rung in reversed(self.decided) if str(index) in rung["losses"]), None)
            rows.append(
                SweepTrial(
                    learning_rate=self._trial(index).settings.learning_rate,
                    rank=None if values.method.type is MethodType.FULL else values.method.lora.rank,
                    steps=last["step"] if last else 0,
                    loss=last["losses"][str(index)] if last else None,
                    note=self.out.get(str(index), ""),
                    chosen=index == winner,
                )
            )
        return tuple(rows)

    def _indexed(self) -> list[tuple[int, Values]]:
        return list(enumerate(self.values))

    def _alive(self) -> list[int]:
        return list(self.decided[-1]["kept"]) if self.decided else list(range(len(self.values)))

    def _finalists(self) -> list[int]:
        """Who may become the candidate: those of the last comparison, best first."""
        order = [int(index) for index in self.decided[-1]["losses"]] if self.decided else [0]
        kept = self._alive()
        return [index for index in [*kept, *(i for i in order if i not in kept)] if str(index) not in self.out]

    def _trial(self, index: int) -> Trial:
        values = self.values[index]
        budget = self.settings.budget_seconds
        others = sum(seconds for name, seconds in self.seconds.items() if name != str(index))
        settings = replace(
            self.settings,
            learning_rate=self.settings.learning_rate if values.rate is None else values.rate,
            budget_seconds=None if budget is None else budget - others,
        )
        return Trial(f"{FOLDER}/{_name(index)}", values.method, self.edge, settings)

    def _begun(self, index: int) -> tuple[Tail, Course]:
        tail, course = trial.begun(self.job, self.material, self._trial(index))
        self._start = stage.start_from_promoted(self.job, tail)
        return tail, course

    def _loop(self, index: int, course: Course) -> Loop:
        """The trial's loop, where it left off."""
        loop = Loop(course)
        if loop.resume():
            loop.state.cache_note = stage.open_cache(self.job, course, self.material, self.cached)
        if self._left_at.get(index) == loop.resumed_from_step:
            if loop.resumed_from_step is not None:  # a pause of ours is no resumption
                loop.state.resumed -= 1
        else:
            self._resumed_from[index] = loop.resumed_from_step
        course.reporter = Part(
            self.job.reporter, (self._spent - loop.state.step) / self._whole, self.steps / self._whole
        )
        return loop

    def _compared(self, index: int, rung: Rung) -> float | None:
        """The watched loss of a trial at a rung; None if it diverged before."""
        tail, course = self._begun(index)
        try:
            loop = self._loop(index, course)
            began = loop.state.step
            trained = loop.run(rung.step)
        except (Diverged, NotFinite) as error:
            self._put_out(index, error.message if isinstance(error, Diverged) else str(error))
            return None
        finally:
            tail.detach()
        self._spent += trained.steps - began
        self._left_at[index], self.seconds[str(index)] = trained.steps, trained.seconds
        return trained.watched_loss

    def _told(self, index: int, trained: Trained) -> Trained:
        return replace(trained, resumed_from_step=self._resumed_from.get(index))

    def _put_out(self, index: int, why: str) -> None:
        self.job.ranks.agreed = False
        self.out[str(index)] = why
        logger.info("trial %s is out: %s", _name(index), why)

    def _demand_any(self, losses: dict[int, float]) -> None:
        if not losses:
            self.job.ranks.agreed = True
            raise Diverged(f"all trials of training.sweep diverged; the first one: {self.out[min(self.out, key=int)]}")

    def _keep(self) -> None:
        trial.keep(self.job, FILE, self.identity, {"rungs": self.decided, "out": self.out, "seconds": self.seconds})

    def _forget(self, indices: Sequence[int]) -> None:
        """The checkpoints of trials that no longer have a chance; what they measured stays."""
        for index in indices:
            trial.forget(self.job, f"{FOLDER}/{_name(index)}/checkpoints")


def _name(index: int) -> str:
    return f"t{index + 1}"


def train(job: Job, material: Material, edge: Boundary, cached: Cached | None = None) -> Learnt:
    """Holds the trials, and trains the best to its end."""
    contest = Contest(job, material, edge, cached)
    with job.stage("Caching"):
        contest.open()
    with job.stage("Training"):
        contest.hold()
        winner, learnt = contest.finish()
    table = contest.table(winner)
    notes = [*stage.standing_notes(job, learnt.tail), _sentence(contest, winner, table), *learnt.notes]
    return replace(learnt, notes=tuple(note for note in notes if note), sweep_trials=table)


def _sentence(contest: Contest, winner: int, table: tuple[SweepTrial, ...]) -> str:
    row, rows = table[winner], len(contest.material.watched)
    won = f"training.sweep: {contest.values[winner].words} won among {len(table)} trials"
    loss = (
        "" if row.loss is None else f", loss {row.loss:.3f} after {row.steps} steps on {rows} training rows set aside"
    )
    out = f"; {len(contest.out)} diverged" if contest.out else ""
    return f"{won}{loss}{out}" if len(table) > 1 else ""
