"""The first stages of a run: load, read the data, attach the tail, train it. Each may be done again after a kill.

Judging and sealing are candidate.py's.
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
from topcoat.api.method import MethodType
from topcoat.api.report import PrepareReport
from topcoat.api.retrain import StartFrom
from topcoat.api.run import RunFile
from topcoat_trainer import adapter, devices, layers, prepare, seal, source
from topcoat_trainer import model as models
from topcoat_trainer import split as split_room
from topcoat_trainer.adapter import Tail
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.cache import opening
from topcoat_trainer.cache.opening import Opened
from topcoat_trainer.data import dataset
from topcoat_trainer.data.dataset import Assembled
from topcoat_trainer.devices import Device
from topcoat_trainer.digest import DigestBook
from topcoat_trainer.errors import Corrupt, DataError, UserInputError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.loop import course as courses
from topcoat_trainer.loop import holding, survey
from topcoat_trainer.loop.course import Course, Trained
from topcoat_trainer.loop.loop import Loop
from topcoat_trainer.model import BaseModel
from topcoat_trainer.render import Renderer

if TYPE_CHECKING:
    from topcoat_trainer.run import Job

logger = logging.getLogger(__name__)

# Held-out rows of the learning curve: enough to see a trend, few enough to cost little.
WATCHED_ROWS = 128
UNITS = {"m": 1e-3, "": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
BINARY_UNITS = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}
STOPPING_ROWS = 200


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


@dataclass(frozen=True, slots=True)
class Learnt:
    """A trained tail and the story of its training. The tail is still attached to the base model."""

    tail: Tail
    trained: Trained
    notes: tuple[str, ...]


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
    rows, watched = data.train, data.holdout[:WATCHED_ROWS]
    if run.training.early_stopping is not None:
        rows, watched = _apart(data.train, run.dataset.holdout)
    learnable = tuple(row for row in rows if any(row.trained[1:]))
    return Material(prepared, device, base, renderer, data, learnable, watched)


def _base_model(job: Job, prepared: PrepareReport, device: Device) -> BaseModel:
    book = DigestBook(Path(job.run.paths.cache) / "digests.json")
    facts = models.inspect(Path(prepared.base_model.path), book.sha256)
    if facts.digest != prepared.base_model.digest:
        raise Corrupt("the base model changed while the run began", where=str(facts.path))
    # Weights that train are kept in FP32: in half precision small steps would be rounded away.
    kind = job.run.method.type
    dtype = devices.DTYPES["FP32"] if kind is MethodType.FULL else device.dtype
    return models.load(facts.path, device.name, dtype, four_bit=kind is MethodType.QLORA, facts=facts)


def _apart(rows: Sequence[TokenRow], holdout: Holdout) -> tuple[tuple[TokenRow, ...], tuple[TokenRow, ...]]:
    """Rows for early stopping, taken from the training side: rows that choose the weights may not judge them too."""
    wishes = Holdout(
        fraction="0.1", min_samples=10, max_samples=STOPPING_ROWS, group_by=holdout.group_by, seed=holdout.seed + 1
    )
    try:
        parts = split_room.split([row.example for row in rows], wishes)
    except DataError as error:
        raise UserInputError(
            f"too few training rows to watch for early stopping: {error.message}",
            where="training.earlyStopping",
            hint="leave training.earlyStopping out, or add rows",
        ) from error
    return tuple(rows[index] for index in parts.train), tuple(rows[index] for index in parts.holdout)


def attach(job: Job, material: Material) -> Tail:
    """A fresh tail behind the boundary; all else is frozen, and proved to be."""
    run, base = job.run, material.base
    edge = layers.boundary(base.model, run.method.layers, material.data.task.kind)
    tail = adapter.attach(base, run.method, edge, run.training.seed)
    logger.info("%s train: %d of %d parameters", edge, tail.proof.trainable_parameters, tail.proof.total_parameters)
    return tail


def _start_from_promoted(job: Job, tail: Tail) -> str:
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


def train(job: Job, tail: Tail, material: Material) -> Learnt:
    """Trains the tail, from the newest checkpoint if there is one; a finished training is not repeated."""
    several = "" if job.ranks.alone else f"trained by {job.ranks.size} processes"
    notes = [_start_from_promoted(job, tail), several, *material.base.notes, *tail.notes]
    with job.stage("Caching"):
        course = _course(job, tail, material)
        loop = Loop(course)
        found = Opened("")
        if loop.resume():
            found = open_cache(job, course, material)
            loop.state.cache_note = found.note
    with job.stage("Training"):
        trained = loop.run()
    found.close()
    return Learnt(tail, trained, tuple(note for note in (*notes, *trained.notes) if note))


def _course(job: Job, tail: Tail, material: Material) -> Course:
    run, device = job.run, material.device
    facts = material.base.facts
    room = survey.Room(device, tail.boundary, facts.hidden_size, facts.vocabulary_size)
    settings = courses.settings(run, gpus=job.ranks.size if device.is_gpu else 0)
    return Course(
        model=tail.model,
        boundary=tail.boundary,
        rows=material.rows,
        watched=material.watched,
        settings=settings,
        portion=survey.portion(run.training, material.rows, room),
        folder=job.folder,
        identity=_identity(job, material),
        reporter=job.reporter,
        stop=job.stop,
        view=survey.view(tail.model, material.rows, packing=settings.packing),
        dtype=device.dtype,
        fence=job.claim.demand,
        ranks=job.ranks,
        split=_why_split(job, tail, device),
    )


def _why_split(job: Job, tail: Tail, device: Device) -> str:
    """Why the trained layers are held in parts, if they are: as soon as one rank is short of memory, by all."""
    if job.ranks.alone or job.run.method.type is not MethodType.FULL:
        return ""
    parameters, free = tail.proof.trainable_parameters, devices.available_bytes(device)
    return job.ranks.any_word(holding.why_split(parameters, free, job.ranks.size))


def _identity(job: Job, material: Material) -> str:
    """What a checkpoint belongs to. Base and data are in it too, for a planner that gives no hash."""
    card = material.prepared
    return f"{job.run.uid}/{job.run.run}/{job.run.input_hash}/{card.base_model.digest}/{card.dataset.digest}"


def open_cache(job: Job, course: Course, material: Material) -> Opened:
    """Puts an activation cache around the model where it pays and is exact."""
    found = opened(job, material, course, [course.boundary])
    if found.rows:
        course.around, course.soon = found.rows[0].around, found.rows[0].read_ahead
        course.around_watched = found.watched[0].around
    return found


def opened(job: Job, material: Material, course: Course, edges: Sequence[Boundary]) -> Opened:
    """The states of the course's rows at these boundaries, which rise; one pass gives all of them."""
    wishes, order = job.run.training.activation_cache, course.settings.order(len(course.rows))
    frozen = [edge for edge in edges if edge.first_trained]
    return opening.opened(
        opening.Request(
            halves=[Halves(course.model, edge) for edge in frozen],
            view=course.view,
            rows=course.rows,
            watched=course.watched,
            epochs=order.epochs_done(order.total_steps),
            wishes=wishes,
            dtype=course.dtype,
            available_bytes=devices.available_bytes(),
            limit_bytes=bytes_of(wishes.size_limit) if wishes.size_limit else None,
            folder=activations(job.run),
            key=_cache_key(material, course),
            plan=job.folder / f"fill-{'-'.join(str(edge.first_trained) for edge in frozen)}.bin",
            ranks=job.ranks,
            progress=partial(_filled, job),
        )
    )


def activations(run: RunFile) -> Path:
    """Where a job's kept activations lie: as sensitive as its data, so no other job's are beside them."""
    return Path(run.paths.cache) / "activations" / f"{run.name}-{run.uid}"


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
