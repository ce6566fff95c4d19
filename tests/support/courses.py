"""Tiny courses for the loop: a random model of a few thousand weights, rows of random tokens. For tests only."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from tests.support import tiny_models
from topcoat.api.method import LoRA, Method, MethodType
from topcoat_trainer import adapter, layers
from topcoat_trainer import model as models
from topcoat_trainer.batches import Portion
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.loop import survey
from topcoat_trainer.loop.course import Course, Settings, Trained
from topcoat_trainer.loop.loop import Loop
from topcoat_trainer.loop.stop import Stop
from topcoat_trainer.progress import Reporter

SETTINGS = Settings(epochs=2, rows_per_step=4, learning_rate=5e-3, checkpoint_interval_steps=3, checkpoints_kept=2)


def rows(count: int, seed: int = 1, vocabulary: int = 250, longest: int = 24) -> list[TokenRow]:
    """Random rows; the last third of each is learnt."""
    chance = random.Random(seed)
    made = []
    for number in range(count):
        length = chance.randint(6, longest)
        prompt = length * 2 // 3
        ids = tuple(chance.randrange(4, vocabulary) for _ in range(length))
        made.append(TokenRow(ids, tuple(i >= prompt for i in range(length)), prompt, Example(row=number + 1)))
    return made


def method(kind: MethodType = MethodType.LORA, **lora: Any) -> Method:
    return Method(type=kind, lora=LoRA(**{"rank": 8, **lora}))


def course(
    model_folder: Path,
    folder: Path,
    settings: Settings = SETTINGS,
    how: Method | None = None,
    *,
    packing: bool = True,
    **changes: Any,
) -> Course:
    """A course on the last two layers of a tiny model; the same arguments give the same course."""
    torch.set_num_threads(1)
    base = models.load(model_folder)
    edge = layers.boundary(base.model, 2, "Generation")
    tail = adapter.attach(base, how or method(), edge, settings.seed)
    folder.mkdir(parents=True, exist_ok=True)
    made = Course(
        model=tail.model,
        boundary=edge,
        rows=rows(18),
        watched=rows(5, seed=2),
        settings=settings,
        portion=Portion(rows=4, tokens=4096),
        folder=folder,
        identity="i" * 64,
        reporter=Reporter(folder / "progress.json"),
        stop=Stop(),
        view=survey.narrowed(survey.view(tail.model, rows(18), packing=packing), rows(18)),
    )
    made.reporter.stage("Training")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def train(made: Course, each_step: Callable[[Loop], None] | None = None) -> tuple[Trained, Loop]:
    """Runs a course; `each_step` is called before every step."""
    loop = Loop(made)
    if each_step is not None:
        inner = loop._step

        def step() -> None:
            each_step(loop)
            inner()

        loop._step = step  # type: ignore[method-assign]  # a test looks in between the steps
    loop.resume()
    return loop.run(), loop


def weights(made: Course) -> dict[str, torch.Tensor]:
    """The trained weights, copied."""
    return {name: p.detach().clone() for name, p in made.model.named_parameters() if p.requires_grad}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def journal(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the seconds, which no two runs share."""
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def with_settings(**changes: Any) -> Settings:
    return replace(SETTINGS, **changes)


def tiny(folder: Path, family: str = "llama", **changes: Any) -> Path:
    return tiny_models.make(family, folder, **changes)
