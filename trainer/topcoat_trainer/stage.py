"""The first stages of a run: load, read the data, attach a tail, train it. Each may be done again after a kill.

What is trained may first be chosen by trials (learn.py); judging and sealing are candidate.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch
import transformers

from topcoat.api.dataset import Holdout
from topcoat.api.method import Method, MethodType
from topcoat.api.report import LayerTrial, PrepareReport, SweepTrial
from topcoat.api.retrain import StartFrom
from topcoat.api.training import Training
from topcoat_trainer import adapter, devices, halving, prepare, seal, source
from topcoat_trainer import model as models
from topcoat_trainer import split as split_room
from topcoat_trainer.adapter import Tail
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.cache import opening
from topcoat_trainer.cache.home import home
from topcoat_trainer.cache.states import BoundaryCache
from topcoat_trainer.data import dataset
from topcoat_trainer.data.dataset import Assembled
from topcoat_trainer.devices import Device
from topcoat_trainer.digest import DigestBook
from topcoat_trainer.errors import Corrupt, DataError, UserInputError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.loop import course as courses
from topcoat_trainer.loop import holding, survey
from topcoat_trainer.loop.course import Course, Settings, Trained
from topcoat_trainer.loop.loop import Loop
from topcoat_trainer.model import BaseModel
from topcoat_trainer.render import Renderer
from topcoat_trainer.view import View

if TYPE_CHECKING:
    from topcoat_trainer.run import Job

logger = logging.getLogger(__name__)

# Held-out rows of the learning curve: enough to see a trend, few enough to cost little.
WATCHED_ROWS = 128
UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
BINARY_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}
CHOOSING_ROWS = 200


@dataclass(frozen=True, slots=True)
class Material:
    """What is learnt from and judged on. `watched`: rows of the held-out curve, never learnt from."""

    prepared: PrepareReport
    device: Device
    base: BaseModel
    renderer: Renderer
    data: Assembled
    rows: tuple[TokenRow, ...]
    watched: tuple[TokenRow, ...]
    view: View
    """How the base model takes the rows; a tail changes nothing of it."""
    apart: bool = False
    """Whether the watched rows are of the training side, so that they may choose; else they are the gate's."""


@dataclass(frozen=True, slots=True)
class Cached:
    """An activation cache that several courses on one boundary share."""

    note: str
    rows: BoundaryCache | None = None
    """None: there is no cache, and the note says why."""
    watched: BoundaryCache | None = None
    """None: the watched rows of the course at hand are not in it."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trained tail and the story of its training. The tail is still attached to the base model."""

    tail: Tail
    trained: Trained
    notes: tuple[str, ...]
    course: Course
    layer_trials: tuple[LayerTrial, ...] = ()
    sweep_trials: tuple[SweepTrial, ...] = ()


def load(job: Job, prepared: PrepareReport) -> Material:
    """The base model in memory, and the rows, rendered and split exactly as the prepare stage did."""
    run = job.run
    device = devices.choose(run.training.precision, job.ranks.device)
    devices.check_method(run.method.type, device)
    devices.use_threads()
    devices.deterministic(run.training.seed, device)
    job.diary.gpus = job.ranks.size if device.is_gpu else 0
    base = _base_model(job, prepared, device)
    renderer = prepare.renderer(run, base.facts)
    data = dataset.assemble(prepare.data_files(run.dataset, source.places(run)), run.dataset, renderer)
    if data.card.holdout_digest != prepared.dataset.holdout_digest:
        raise Corrupt("the data changed while the run began", where=Path(prepared.train_path).name)
    rows, watched, field = data.train, data.holdout[:WATCHED_ROWS], _chooser(run.training)
    if field:
        rows, watched = _apart(data.train, run.dataset.holdout, field)
    learnable = tuple(row for row in rows if any(row.trained[1:]))
    view = survey.view(base.model, learnable, packing=run.training.packing)
    return Material(prepared, device, base, renderer, data, learnable, watched, view, bool(field))


def _chooser(training: Training) -> str:
    """The field because of which rows must be set aside, if one is given."""
    given = {"earlyStopping": training.early_stopping, "sweep": training.sweep}
    return next((f"training.{name}" for name, wish in given.items() if wish is not None), "")


def _base_model(job: Job, prepared: PrepareReport, device: Device) -> BaseModel:
    book = DigestBook(Path(job.run.paths.cache) / "digests.json")
    facts = models.inspect(Path(prepared.base_model.path), book.sha256)
    if facts.digest != prepared.base_model.digest:
        raise Corrupt("the base model changed while the run began", where=str(facts.path))
    # Weights that train are kept in FP32: in half precision small steps would be rounded away.
    kind = job.run.method.type
    dtype = devices.DTYPES["FP32"] if kind is MethodType.FULL else device.dtype
    return models.load(facts.path, device.name, dtype, four_bit=kind is MethodType.QLORA, facts=facts)


def apart(rows: Sequence[TokenRow], holdout: Holdout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Places of the rows to learn from, and of those set aside to choose by. All are of the training side: rows that
    choose the weights may not judge them too.
    """
    wishes = Holdout(
        fraction="0.1", min_samples=10, max_samples=CHOOSING_ROWS, group_by=holdout.group_by, seed=holdout.seed + 1
    )
    parts = split_room.split([row.example for row in rows], wishes)
    return parts.train, parts.holdout


def _apart(rows: Sequence[TokenRow], holdout: Holdout, field: str) -> tuple[tuple[TokenRow, ...], tuple[TokenRow, ...]]:
    try:
        learnt, watched = apart(rows, holdout)
    except DataError as error:
        raise UserInputError(
            f"too few training rows to set some aside for {field}: {error.message}",
            where=field,
            hint=f"leave {field} out, or add rows",
        ) from error
    return tuple(rows[index] for index in learnt), tuple(rows[index] for index in watched)


def attach(job: Job, material: Material, method: Method, edge: Boundary) -> Tail:
    """A fresh tail behind the boundary; all else is frozen, and proved to be."""
    tail = adapter.attach(material.base, method, edge, job.run.training.seed)
    logger.info("%s train: %d of %d parameters", edge, tail.proof.trainable_parameters, tail.proof.total_parameters)
    return tail


def start_from_promoted(job: Job, tail: Tail) -> str:
    """Puts the serving version's weights into the fresh tail where both have one shape. Says what it did."""
    serving = job.run.serving
    if job.run.start_from is not StartFrom.PROMOTED or serving is None:
        return ""
    folder = Path(serving.path)
    manifest = seal.verify(folder, expected_digest=serving.digest, base_digest=tail.base.digest)
    tensors = safetensors.torch.load_file(folder / seal.WEIGHTS[manifest.kind])
    shapes = {name: tuple(tensor.shape) for name, tensor in tail.state().items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in tensors.items()}:
        return f"started from the base model: {serving.version} has other layers or another rank"
    tail.load_state(tensors)
    return f"started from the weights of {serving.version}"


def train(job: Job, tail: Tail, material: Material, cached: Cached | None = None) -> Learnt:
    """Trains the tail, from the newest checkpoint if there is one; a finished training is not repeated."""
    notes = [start_from_promoted(job, tail), *standing_notes(job, tail)]
    with job.stage("Caching"):
        found = course(job, tail, material)
        loop = Loop(found)
        if loop.resume():
            loop.state.cache_note = open_cache(job, found, material, cached)
    with job.stage("Training"):
        trained = loop.run()
    return Learnt(tail, trained, tuple(note for note in (*notes, *trained.notes) if note), found)


def standing_notes(job: Job, tail: Tail) -> list[str]:
    """What people should know of any training of this tail."""
    several = "" if job.ranks.alone else f"trained by {job.ranks.size} processes"
    return [several, *tail.base.notes, *tail.notes]


def course(job: Job, tail: Tail, material: Material) -> Course:
    """The training of this tail as the manifest asks for it."""
    run, device = job.run, material.device
    facts = material.base.facts
    room = survey.Room(device, tail.boundary, facts.hidden_size, facts.vocabulary_size)
    wishes = settings(job, material)
    return Course(
        model=tail.model,
        boundary=tail.boundary,
        rows=material.rows,
        watched=material.watched,
        settings=wishes,
        portion=survey.portion(run.training, material.rows, room),
        folder=job.folder,
        identity=identity(job, material),
        reporter=job.reporter,
        stop=job.stop,
        view=survey.narrowed(material.view, material.rows),
        dtype=device.dtype,
        fence=job.claim.demand,
        ranks=job.ranks,
        split=_why_split(job, tail, device),
    )


def settings(job: Job, material: Material) -> Settings:
    """The manifest's words on training, as numbers."""
    return courses.settings(job.run, gpus=job.ranks.size if material.device.is_gpu else 0)


def _why_split(job: Job, tail: Tail, device: Device) -> str:
    """Why the trained layers are held in parts, if they are: as soon as one rank is short of memory, by all."""
    if job.ranks.alone or job.run.method.type is not MethodType.FULL:
        return ""
    parameters, free = tail.proof.trainable_parameters, devices.available_bytes(device)
    return job.ranks.any_word(holding.why_split(parameters, free, job.ranks.size))


def identity(job: Job, material: Material) -> str:
    """What a checkpoint belongs to. Base and data are in it too, for a planner that gives no hash."""
    card = material.prepared
    return f"{job.run.uid}/{job.run.run}/{job.run.input_hash}/{card.base_model.digest}/{card.dataset.digest}"


def open_cache(job: Job, course: Course, material: Material, cached: Cached | None = None) -> str:
    """Puts an activation cache around the model where it pays and is exact: one that is there, or a new one, filled.
    Says what came of it.
    """
    found = cached or caches_at(job, course, material, [course.boundary])[course.boundary]
    if found.rows is not None:
        course.around, course.soon = found.rows.around, found.rows.read_ahead
        course.around_watched = (found.watched or _beside(found.rows, course)).around
    return found.note


def _beside(cache: BoundaryCache, course: Course) -> BoundaryCache:
    """The same for the watched rows, which others may not have read."""
    beside = BoundaryCache(cache.halves, cache.view, cache.kept)
    beside.fill(course.watched)
    return beside


def caches_at(job: Job, course: Course, material: Material, boundaries: Sequence[Boundary]) -> dict[Boundary, Cached]:
    """The states of the course's rows, and of its watched rows, at these boundaries; one pass gives all of them."""
    frozen = sorted((edge for edge in boundaries if edge.first_trained), key=lambda edge: edge.first_trained)
    found = opening.opened(_request(job, course, material, frozen))
    job.closing.callback(found.close)
    caches = {edge: Cached(found.note) for edge in boundaries}
    for edge, rows, watched in zip(frozen, found.rows, found.watched, strict=False):
        caches[edge] = Cached(found.note, rows, watched if course.watched else None)
    return caches


def _request(job: Job, course: Course, material: Material, edges: Sequence[Boundary]) -> opening.Request:
    wishes, order = job.run.training.activation_cache, course.settings.order(len(course.rows))
    return opening.Request(
        halves=[Halves(course.model, edge) for edge in edges],
        view=course.view,
        rows=course.rows,
        watched=course.watched,
        epochs=order.epochs_done(order.total_steps) * halving.passes(job.run.training.sweep, order.total_steps),
        wishes=wishes,
        dtype=course.dtype,
        available_bytes=devices.available_bytes(),
        limit_bytes=bytes_of(wishes.size_limit) if wishes.size_limit else None,
        folder=home(job.run),
        key=_cache_key(material, course),
        plan=job.folder / f"fill-{'-'.join(str(edge.first_trained) for edge in edges)}.bin",
        ranks=job.ranks,
        progress=partial(_filled, job),
    )


def _cache_key(material: Material, course: Course) -> dict[str, str]:
    """All that decides what the frozen layers give for given tokens, but for the boundary."""
    base = material.base
    return {
        "model": base.digest,
        "config": base.config_digest,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "attention": str(base.model.config._attn_implementation),  # noqa: SLF001 (nobody says it in public)
        "device": course.device.type,
        "weights": str(base.dtype),
        "precision": str(course.dtype),
        "quantized": str(bool(getattr(base.model, "is_quantized", False))),
    }


def bytes_of(quantity: str) -> int:
    """Bytes of a Kubernetes quantity such as 512Mi or 1.5G."""
    number = quantity.rstrip("KMGTPikm")
    return int(float(number) * {**UNITS, **BINARY_UNITS}[quantity[len(number) :]])


def _filled(job: Job, done: int, whole: int) -> None:
    job.reporter.share(done / whole)
