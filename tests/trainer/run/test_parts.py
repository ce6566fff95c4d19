"""Ranks that hold a part of the trained layers each (FSDP2) learn what ranks learn that hold all of them."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any, cast

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


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_a_checkpoint_of_any_number_of_ranks_is_read_by_any(
    parts: Path, tiny: Path, tmp_path: Path, before: int, after: int
) -> None:
    """With the same number the end is the same bit for bit."""
    assert trained(tiny, tmp_path, before, stop_before=4) == [0] * before
    assert not (tmp_path / "weights.safetensors").exists()
    assert trained(tiny, tmp_path, after) == [0] * after
    close(losses(parts / "metrics.jsonl"), losses(tmp_path / "metrics.jsonl"))
    assert apart(parts, tmp_path) < 1e-6
    if before == after:
        assert courses.same(weights(parts), weights(tmp_path))


def test_a_step_that_is_not_finite_goes_back_on_all_ranks(parts: Path, tiny: Path, tmp_path: Path) -> None:
    """A bad number in one rank's lines: all return to the checkpoint, and end as if nothing had been."""

    def work(rank: int) -> None:
        with ranks.gathered(nothing) as found:
            told = courses.with_settings(learning_rate=1e-3)
            course = courses.course(tiny, tmp_path, told, FULL, ranks=found, split=WHY)
            struck: list[int] = []

            def strike(loop: Loop) -> None:
                if loop.state.step == 4 and found.rank == 1 and not struck:
                    struck.append(4)
                    with torch.no_grad():
                        next(iter(loop.parameters.values())).fill_(math.nan)

            _, loop = courses.train(course, strike)
            assert loop.state.rolled_back
            if found.first:
                made = {name: p.detach().clone() for name, p in loop.parameters.items()}
                safetensors.torch.save_file(made, tmp_path / "weights.safetensors")
            found.end(Termination(outcome=Outcome.SEALED))

    assert crews.forked(work) == [0, 0]
    assert courses.same(weights(parts), weights(tmp_path))


def test_a_gradient_that_overflows_on_one_rank_overflows_on_all(tiny: Path, tmp_path: Path) -> None:
    """Else one would leave the step out, as FP16 wants it, and the others take it."""

    def work(rank: int) -> None:
        with ranks.gathered(nothing) as found:
            course = courses.course(tiny, tmp_path, how=FULL, ranks=found, split=WHY)
            loop = Loop(course)
            held = loop.held
            loop.resume()
            loop._gradients((0, 1, 2, 3))
            dealt = dict(holding.trained(course.model))
            if rank == 1:
                bad: Any = next(iter(dealt.values())).grad
                bad.to_local().fill_(math.inf)
            assert held.add_up(1.0) == 2.0
            assert all(not bool(p.grad.isfinite().any()) for p in held.parameters.values() if p.grad is not None)
            found.end(Termination(outcome=Outcome.SEALED))

    assert crews.forked(work) == [0, 0]


def split_always() -> None:
    holding.PARAMETER_BYTES = 1 << 40  # in a forked child only


def killed(by: int, rank: int) -> None:
    """Kills one rank in the middle of its fifth step, while the other waits for a layer to be put together."""
    split_always()
    inner = Loop._loss

    def loss(self: Loop, *told: Any) -> torch.Tensor:
        if rank == by and self.state.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(self, *told)

    Loop._loss = cast("Any", loss)  # type: ignore[method-assign]  # in a forked child only


@pytest.mark.slow
def test_a_run_of_parts_that_loses_a_rank_goes_on_and_seals_what_one_rank_seals(tiny: Path, tmp_path: Path) -> None:
    how = {"method": {"type": "Full", "layers": 2}, "training": {"epochs": 2, "effectiveBatchSize": 8, "seed": 3}}
    one, two = (runs.run_file(tmp_path / name, tiny, cache=tmp_path / "cache", **how) for name in ("one", "two"))
    assert runs.carry_out(one) == 0
    codes = crews.carried_out(two, lambda rank: killed(1, rank))
    assert codes == [Exit.PEER_LOST, -signal.SIGKILL]
    assert crews.carried_out(two, lambda _: split_always()) == [0, 0]
    assert runs.termination(tmp_path / "two")["resumedFromStep"] == 3
    close(*(losses(tmp_path / name / "versions/v1/metrics.jsonl") for name in ("one", "two")))
    first, second = (
        safetensors.torch.load_file(tmp_path / name / "versions/v1" / seal.WEIGHTS["tail"]) for name in ("one", "two")
    )
    assert first.keys() == second.keys()
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-6
    notes = json.loads((tmp_path / "two/versions/v1/manifest.json").read_text())["lineage"]["notes"]
    assert any(note.startswith("the trained layers are split over 2 processes: whole they take") for note in notes)


def test_a_tail_is_split_where_it_takes_more_than_half_of_the_memory() -> None:
    assert holding.why_split(1 << 30, 32 << 30, 2) == ""
    assert holding.why_split((1 << 30) + 1, 32 << 30, 1) == ""
    assert holding.why_split((1 << 30) + (1 << 26), 32 << 30, 2) == (
        "the trained layers are split over 2 processes: whole they take 17.0 GiB with gradients and AdamW's state, "
        "more than half of the 32.0 GiB of memory that are free"
    )


@pytest.mark.parametrize("lines", [1, 2, 5, 8])
def test_lines_are_dealt_out_whole_and_once(lines: int) -> None:
    matrix = torch.arange(lines * 3).view(lines, 3)
    assert torch.equal(torch.cat([holding.part(matrix, rank, 3) for rank in range(3)]), matrix)
