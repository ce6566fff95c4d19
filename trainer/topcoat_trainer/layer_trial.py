"""`layers: Auto`: each candidate number of layers trains a few steps, and depth.py says which is enough.

The trials learn from training rows and are compared on others that were set aside; the gate's rows are never read.
What was decided is kept: a run that is resumed does not choose again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topcoat.api.report import LayerTrial
from topcoat.api.retrain import StartFrom
from topcoat_trainer import depth, layers, seal, stage, sweep, trial
from topcoat_trainer.batches import Order
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.depth import Length
from topcoat_trainer.errors import DataError, Diverged, OutOfMemory
from topcoat_trainer.loop.loop import Loop, NotFinite
from topcoat_trainer.progress import Part, Reporter
from topcoat_trainer.stage import Cached, Material
from topcoat_trainer.trial import Trial

if TYPE_CHECKING:
    from topcoat_trainer.run import Job

logger = logging.getLogger(__name__)

FILE = "layers.json"
FOLDER = "layers"


@dataclass(frozen=True, slots=True)
class Choice:
    """The boundary to train behind, and why."""

    boundary: Boundary
    note: str = ""
    trials: tuple[LayerTrial, ...] = ()
    cached: Cached | None = None
    """The activation cache that the trials left there."""


@dataclass(frozen=True, slots=True)
class Rows:
    """What the trials learn from and are compared on. `places`: of the rows, and of the watched ones, in the caches;
    None where all are in them as they are.
    """

    material: Material
    places: tuple[tuple[int, ...], tuple[int, ...]] | None


@dataclass(frozen=True, slots=True)
class Bench:
    """What all trials share."""

    job: Job
    rows: Rows
    caches: dict[Boundary, Cached]


def choose(job: Job, material: Material) -> Choice:
    """The boundary for `method.layers`."""
    wanted, model = job.run.method.layers, material.base.model
    usual = layers.boundary(model, wanted, material.data.task.kind)
    if wanted != "Auto":
        return Choice(usual)
    before = _promoted_or_none(job, usual.total)
    if before is not None:
        return Choice(before, f"layers: {before}, as in the version that training starts from")
    tried, order = depth.candidates(usual.total), stage.settings(job, material).order(len(material.rows))
    why = depth.against(_length(order), tried)
    rows = _rows_or_none(job, material)
    if why or rows is None:
        why = why or "its rows cannot be set apart by groups"
        return Choice(usual, f"layers: {usual} by the kind of data, without trials: {why}")
    identity = f"{stage.identity(job, material)}/{FOLDER}"
    found, caches = trial.record(job, FILE, identity), dict[Boundary, Cached]()
    if not found:
        with job.stage("Choosing"):
            caches = trial.caches_at(job, material if material.apart else replace(material, watched=()), tried)
            found = _held(Bench(job, rows, caches), tried)
        trial.keep(job, FILE, identity, found)
    trial.forget(job, FOLDER)
    return _choice(found, tried, usual, caches)


def _promoted_or_none(job: Job, total: int) -> Boundary | None:
    """Where the serving version's layers begin, if its weights are what training starts from."""
    if job.run.start_from is not StartFrom.PROMOTED or job.run.serving is None:
        return None
    lineage = seal.verify(Path(job.run.serving.path), expected_digest=job.run.serving.digest).lineage
    return Boundary(lineage.first_trained_layer, total) if lineage.total_layers == total else None


def _rows_or_none(job: Job, material: Material) -> Rows | None:
    if material.apart:
        return Rows(material, None)
    try:
        learnt, watched = stage.apart(material.rows, job.run.dataset.holdout)
    except DataError:
        return None
    rows = [tuple(material.rows[place] for place in places) for places in (learnt, watched)]
    return Rows(replace(material, rows=rows[0], watched=rows[1], apart=True), (learnt, watched))


def _held(bench: Bench, tried: tuple[Boundary, ...]) -> dict[str, Any]:
    """What the trials showed: the loss of the untrained model, and each candidate's after the same steps."""
    job, rows = bench.job, bench.rows.material
    settings, how = stage.settings(job, rows), sweep.middle(job.run)
    steps = depth.trial_steps(_length(settings.order(len(rows.rows))), tried)
    settings = replace(settings, max_steps=steps, patience=None, learning_rate=how.rate or settings.learning_rate)
    trials = {edge: Trial(f"{FOLDER}/{edge.trained_layers}", how.method, edge, settings) for edge in tried}
    untrained, _ = _loss(bench, replace(trials[tried[0]], name=f"{FOLDER}/untrained"), 0, Reporter(None))
    losses: dict[str, float] = {}
    out: dict[str, str] = {}
    whole, spent = sum(edge.trained_layers for edge in tried), 0
    for edge, one in trials.items():
        loss, why = _loss(bench, one, steps, Part(job.reporter, spent / whole, edge.trained_layers / whole))
        spent += edge.trained_layers
        if loss is None:
            out[str(edge.trained_layers)] = why
        else:
            losses[str(edge.trained_layers)] = loss
        logger.info("%s: loss %s after %d steps, untrained %s", edge, loss, steps, untrained)
    return {"steps": steps, "untrained": untrained or 0.0, "losses": losses, "out": out, "rows": len(rows.watched)}


def _loss(bench: Bench, one: Trial, steps: int, reporter: Reporter) -> tuple[float | None, str]:
    """The watched loss of a trial after so many steps; None, and why, where there is none."""
    cached, places = bench.caches[one.boundary], bench.rows.places
    tail, course = trial.begun(bench.job, bench.rows.material, one)
    course.reporter = reporter
    if cached.rows is not None and places is not None:
        course.around, course.around_watched = (trial.among(cached.rows.around, part) for part in places)
    elif cached.rows is not None and cached.watched is not None:
        course.around, course.around_watched = cached.rows.around, cached.watched.around
    watched, course.watched = course.watched, ()  # looked at in the end, not on the way
    try:
        loop = Loop(course)
        loop.resume()
        loop.run(steps)
        course.watched = watched
        return loop.run(steps).watched_loss, ""
    except (Diverged, NotFinite) as error:
        bench.job.ranks.agreed = False
        return None, error.message if isinstance(error, Diverged) else str(error)
    except OutOfMemory as error:
        if not bench.job.ranks.alone:
            raise  # the others do not know
        return None, error.message
    finally:
        tail.detach()


def _length(order: Order) -> Length:
    return Length(order.rows, order.total_steps, order.steps_per_epoch)


def _choice(
    found: dict[str, Any], tried: tuple[Boundary, ...], usual: Boundary, caches: dict[Boundary, Cached]
) -> Choice:
    """The decision, and how people hear of it."""
    losses = {edge: loss for edge in tried if (loss := found["losses"].get(str(edge.trained_layers))) is not None}
    rows = depth.evidence(tried, found["steps"], found["untrained"], losses)
    table = tuple(row.model_copy(update={"note": found["out"].get(str(row.layers), "")}) for row in rows)
    edge = depth.chosen(found["untrained"], losses)
    among = ", ".join(str(row.layers) for row in table)
    if edge is None:
        note = f"layers: {usual} by the kind of data: none of {among} layers learnt anything in {found['steps']} steps"
        return Choice(usual, note, table, caches.get(usual))
    share = next(row.gain_share for row in table if row.chosen)
    note = (
        f"layers: {edge}, chosen among {among} by trials of {found['steps']} steps and {found['rows']} training rows "
        f"set aside: the fewest that keep {depth.KEPT_GAIN:.0%} of the best one's gain ({share:.0%})"
    )
    return Choice(edge, note, table, caches.get(edge))
