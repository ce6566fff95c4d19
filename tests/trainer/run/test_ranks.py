"""Two ranks give what one gives, stop together, and end with one reason."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any, cast

import pytest
import safetensors.torch

from tests.support import courses, crews, runs
from topcoat.api.exits import Exit
from topcoat.api.report import Outcome, Termination
from topcoat_trainer import ranks, seal, stage
from topcoat_trainer.errors import DataError
from topcoat_trainer.loop.loop import Loop
from topcoat_trainer.ranks import Ranks


def nothing() -> None: ...


def losses(path: Path) -> list[Any]:
    return [[line[name] for name in ("loss", "gradNorm", "holdoutLoss") if name in line] for line in runs.steps(path)]


def close(first: list[Any], second: list[Any]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert one == pytest.approx(two, rel=1e-4)


def trained(model: Path, folder: Path, count: int, **settings: Any) -> list[int]:
    """A course by so many ranks; each leaves the digest of its final weights."""

    def work(rank: int) -> None:
        with ranks.gathered(nothing) as found:
            course = courses.course(model, folder, courses.with_settings(**settings), ranks=found)
            _, loop = courses.train(course)
            weights = {name: p.detach().clone() for name, p in loop.parameters.items()}
            safetensors.torch.save_file(weights, folder / f"weights-{rank}.safetensors")
            found.end(Termination(outcome=Outcome.SEALED))

    return crews.forked(work, count)


def test_two_ranks_learn_what_one_learns(tiny: Path, tmp_path: Path) -> None:
    """Losses, gradient norms, held-out losses and weights agree; both ranks hold the very same weights in the end."""
    assert trained(tiny, tmp_path / "one", 1) == [0]
    assert trained(tiny, tmp_path / "two", 2) == [0, 0]
    close(losses(tmp_path / "one/metrics.jsonl"), losses(tmp_path / "two/metrics.jsonl"))
    one, *two = (tmp_path / f"{name}.safetensors" for name in ("one/weights-0", "two/weights-0", "two/weights-1"))
    assert two[0].read_bytes() == two[1].read_bytes()
    alone, together = safetensors.torch.load_file(one), safetensors.torch.load_file(two[0])
    largest = max(float(tensor.abs().max()) for tensor in alone.values())
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 1e-4 * largest


def test_more_ranks_than_rows_in_a_step_are_no_error(tiny: Path, tmp_path: Path) -> None:
    assert trained(tiny, tmp_path / "three", 3, rows_per_step=2, max_steps=4) == [0, 0, 0]
    assert trained(tiny, tmp_path / "one", 1, rows_per_step=2, max_steps=4) == [0]
    close(losses(tmp_path / "one/metrics.jsonl"), losses(tmp_path / "three/metrics.jsonl"))


def stop_at(step: int, by: int, rank: int) -> None:
    inner = Loop._step

    def stepped(self: Loop) -> None:
        if rank == by and self.state.step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        inner(self)

    Loop._step = stepped  # type: ignore[method-assign]  # in a forked child only


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_run_goes_on_with_another_number_of_ranks(
    unbroken: Path, tiny: Path, tmp_path: Path, before: int, after: int
) -> None:
    """SIGTERM reaches one rank; all stop at one step, one checkpoint is saved, and any number goes on from there."""
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    codes = crews.carried_out(path, lambda rank: stop_at(4, before - 1, rank), before)
    assert codes == [Exit.CHECKPOINTED] * before
    word = runs.termination(tmp_path)
    assert (word["reason"], "step 5 of 10 is saved" in word["message"]) == ("Checkpointed", True)
    assert crews.carried_out(path, size=after) == [0] * after
    word = runs.termination(tmp_path)
    assert (word["outcome"], word["resumedFromStep"]) == ("Sealed", 5)
    seal.verify(tmp_path / "versions/v1")
    close(losses(unbroken / "versions/v1/metrics.jsonl"), losses(tmp_path / "versions/v1/metrics.jsonl"))
    assert not (runs.folder(tmp_path) / "checkpoints").exists()


def refused(*_: Any, **__: Any) -> None:
    raise DataError("rows are missing on this node", where="train.jsonl")


@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_fails_ends_all_with_its_reason(unbroken: Path, tiny: Path, tmp_path: Path, who: int) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")

    def before(rank: int) -> None:
        if rank == who:
            stage.attach = cast("Any", refused)

    began = time.monotonic()
    assert crews.carried_out(path, before) == [Exit.DATA, Exit.DATA]
    assert time.monotonic() - began < 60
    word = runs.termination(tmp_path)
    assert (word["category"], word["message"]) == ("Data", "train.jsonl: rows are missing on this node")


def killed(rank: int, by: int, step: int = 4) -> None:
    inner = Loop._step

    def stepped(self: Loop) -> None:
        if rank == by and self.state.step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        inner(self)

    Loop._step = stepped  # type: ignore[method-assign]  # in a forked child only


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_rank_that_is_killed_ends_the_others_and_the_run_goes_on(
    unbroken: Path, tiny: Path, tmp_path: Path, who: int
) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    codes = crews.carried_out(path, lambda rank: killed(rank, who))
    assert codes[who] == -signal.SIGKILL
    assert codes[1 - who] == Exit.PEER_LOST
    if who == 1:
        assert runs.termination(tmp_path)["reason"] == "PeerLost"
    assert crews.carried_out(path) == [0, 0]
    # What the first rank had when the other was lost is saved; killed itself, it has its last checkpoint.
    assert runs.termination(tmp_path)["resumedFromStep"] == (4 if who == 1 else 3)
    close(losses(unbroken / "versions/v1/metrics.jsonl"), losses(tmp_path / "versions/v1/metrics.jsonl"))


def test_a_sealed_run_is_reported_again_to_all(unbroken: Path, tiny: Path, tmp_path: Path) -> None:
    path = runs.run_file(tmp_path, tiny, cache=unbroken / "cache")
    shutil.copytree(unbroken / "versions", tmp_path / "versions")
    assert crews.carried_out(path) == [0, 0]
    assert runs.termination(tmp_path)["outcome"] == "Sealed"


def test_rows_are_dealt_out_whole_and_evenly() -> None:
    lengths = [3, 9, 1, 7, 5, 8, 2]
    parts = [Ranks(rank, 3).share(range(7), lengths) for rank in range(3)]
    assert sorted(index for part in parts for index in part) == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert Ranks().share([4, 2], [1, 2]) == (4, 2)
