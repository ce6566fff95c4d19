"""Ranks that hold a part of the trained layers each (FSDP2) learn what ranks learn that hold all of them."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.support import courses, crews, runs
from topcoat.api.exits import Exit
from topcoat.api.method import MethodType
from topcoat.api.report import Outcome, Termination
from topcoat_trainer import layers, ranks, seal
from topcoat_trainer.errors import Stopped
from topcoat_trainer.loop import holding
from topcoat_trainer.loop.loop import Loop

FULL = courses.method(MethodType.FULL)
WHY = "split, for this test"


def nothing() -> None: ...


def losses(path: Path) -> list[Any]:
    return [[line[name] for name in ("loss", "gradNorm", "holdoutLoss") if name in line] for line in runs.steps(path)]


def close(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def trained(
    model: Path, folder: Path, count: int, split: str = WHY, stop_before: int | None = None, **settings: Any
) -> list[int]:
    """A Full course by so many ranks. The first leaves its final weights, each the sizes of what its optimizer has."""

    def look(loop: Loop) -> None:
        if loop.state.step == stop_before and loop.ranks.rank == count - 1:
            loop.course.stop.asked = True

    def work(rank: int) -> None:
        with ranks.gathered(nothing) as found:
            told = courses.with_settings(learning_rate=1e-3, **settings)
            course = courses.course(model, folder, told, FULL, ranks=found, split=split if count > 1 else "")
            try:
                _, loop = courses.train(course, look)
            except Stopped:
                found.end(Termination(outcome=Outcome.SEALED))
                return
            sizes = [tensor.numel() for state in loop.optimizer.state.values() for tensor in state.values()]
            (folder / f"sizes-{rank}.json").write_text(json.dumps(sum(sizes)))
            if found.first:
                weights = {name: p.detach().clone() for name, p in loop.parameters.items()}
                safetensors.torch.save_file(weights, folder / "weights.safetensors")
                tail = layers.tail(course.model, course.boundary)
                left = [type(layer).__name__ for layer in tail if layer._forward_pre_hooks]
                assert not left
                course.model(torch.tensor([[5, 6, 7]]))  # alone: nothing waits for other ranks
            found.end(Termination(outcome=Outcome.SEALED))

    return crews.forked(work, count)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "weights.safetensors")


def apart(first: Path, second: Path) -> float:
    one, two = weights(first), weights(second)
    assert one.keys() == two.keys()
    return max(float((one[name] - two[name]).abs().max()) for name in one)


def size(folder: Path, rank: int) -> int:
    return int(json.loads((folder / f"sizes-{rank}.json").read_text()))


@pytest.fixture(scope="module")
def whole(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave that hold everything."""
    folder = tmp_path_factory.mktemp("whole")
    assert trained(tiny, folder, 2, split="") == [0, 0]
    return folder


@pytest.fixture(scope="module")
def parts(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks leave that hold a half each."""
    folder = tmp_path_factory.mktemp("parts")
    assert trained(tiny, folder, 2) == [0, 0]
    return folder


def test_two_halves_learn_what_two_wholes_learn(whole: Path, parts: Path) -> None:
    close(losses(whole / "metrics.jsonl"), losses(parts / "metrics.jsonl"))
    assert apart(whole, parts) < 1e-6


def test_each_rank_keeps_half_of_the_optimizers_state(whole: Path, parts: Path) -> None:
    assert size(whole, 0) == size(whole, 1)
    steps = len(weights(whole))  # one number of each tensor, which every rank has
    assert size(parts, 0) + size(parts, 1) - steps == size(whole, 0)
    assert size(parts, 0) < 0.52 * size(whole, 0)


def test_ranks_without_rows_or_lines_keep_step(tiny: Path, tmp_path: Path) -> None:
    """Three ranks share two rows, and matrices whose lines cannot be dealt out evenly."""
    assert trained(tiny, tmp_path / "three", 3, rows_per_step=2, max_steps=4) == [0, 0, 0]
    assert trained(tiny, tmp_path / "one", 1, rows_per_step=2, max_steps=4) == [0]
    close(losses(tmp_path / "one/metrics.jsonl"), losses(tmp_path / "three/metrics.jsonl"))
    assert apart(tmp_path / "one", tmp_path / "three") < 1e-6
