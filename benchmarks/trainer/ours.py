"""Ours: the loop and the cache as a run uses them, without reading data, judging and sealing."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.trainer.subject import Order, Pace
from topcoat.api.method import LoRA, Method
from topcoat.api.training import ActivationCache, CacheMode, Training
from topcoat_trainer import adapter, devices, layers
from topcoat_trainer import model as models
from topcoat_trainer.cache import opening
from topcoat_trainer.devices import Device
from topcoat_trainer.halves import Halves
from topcoat_trainer.loop import survey
from topcoat_trainer.loop.course import Course, Settings
from topcoat_trainer.loop.loop import Loop
from topcoat_trainer.loop.stop import Stop
from topcoat_trainer.progress import Reporter
from topcoat_trainer.view import View


class Paced(Reporter):
    """Waits for its turn between epochs. What the loop says after each step tells where it is."""

    def __init__(self, pace: Pace, model: Any, steps_per_epoch: int) -> None:
        super().__init__(None)
        self._pace, self._model, self._every = pace, model, steps_per_epoch

    def share(self, *words: Any, step: tuple[int, int] | None = None, **more: Any) -> None:
        super().share(*words, step=step, **more)
        if step is not None and step[0] % self._every == 0:
            self._pace.done(self._model)
            if step[0] < step[1]:
                self._pace.wait()


def cached(order: Order, pace: Pace) -> None:
    train(order, pace, use_cache=True)


def uncached(order: Order, pace: Pace) -> None:
    train(order, pace, use_cache=False)


def train(order: Order, pace: Pace, *, use_cache: bool) -> None:
    device = devices.choose("Auto", "cuda:0" if order.gpu else "cpu")
    devices.deterministic(order.seed, device)
    base = models.load(order.model, device.name, device.dtype)
    edge = layers.boundary(base.model, order.last_layers or "All", "Generation")
    tail = adapter.attach(base, Method(lora=LoRA(rank=order.rank, alpha=2 * order.rank)), edge, order.seed)
    with tempfile.TemporaryDirectory() as folder:
        course = _course(order, tail, Path(folder), device)
        pace.wait()
        course.view = survey.narrowed(survey.view(tail.model, course.rows, packing=True), course.rows)
        if use_cache:
            found = opening.opened(_request(course, order))
            if not found.rows:
                raise RuntimeError(found.note)
            course.around = found.rows[0].around
        pace.done(None)
        loop = Loop(course)
        course.reporter = Paced(pace, tail.model, loop.order.steps_per_epoch)
        loop.resume()
        pace.wait()
        loop.run()


def _request(course: Course, order: Order) -> opening.Request:
    return opening.Request(
        halves=[Halves(course.model, course.boundary)],
        view=course.view,
        rows=course.rows,
        watched=(),
        epochs=order.epochs,
        wishes=ActivationCache(mode=CacheMode.ENABLED),
        dtype=course.dtype,
        available_bytes=devices.available_bytes(),
    )


def _course(order: Order, tail: adapter.Tail, folder: Path, device: Device) -> Course:
    rows, facts = order.rows.train, tail.base.facts
    room = survey.Room(device, tail.boundary, facts.hidden_size, facts.vocabulary_size)
    settings = Settings(
        epochs=order.epochs,
        rows_per_step=order.rows_per_step,
        learning_rate=order.learning_rate,
        warmup_ratio=order.warmup_ratio,
        seed=order.seed,
        checkpoint_interval_steps=1_000_000,
    )
    portion = survey.portion(Training(effective_batch_size=order.rows_per_step), rows, room)
    return Course(
        tail.model,
        tail.boundary,
        rows,
        (),
        settings,
        portion,
        folder,
        "benchmark",
        Reporter(None),
        Stop(),
        View(tail.model),
        dtype=device.dtype,
    )
