"""Ranks fill the activation cache together: each computes its share at the same time as the others, all have all."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.support import crews, runs
from topcoat.api.exits import Exit
from topcoat.api.report import Outcome, Termination
from topcoat.api.training import CacheMedium
from topcoat_trainer import model as models
from topcoat_trainer import ranks
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.cache import opening, states
from topcoat_trainer.cache.medium import Choice
from topcoat_trainer.cache.shelf import Shelf
from topcoat_trainer.cache.states import BoundaryCache, Memory
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.ranks import Ranks
from topcoat_trainer.view import View

PORTION = 64
WIDTH = 32


def nothing() -> None: ...


def rows(count: int = 40) -> list[TokenRow]:
    chance = random.Random(3)
    made = []
    for number in range(count):
        ids = tuple(chance.randrange(4, 250) for _ in range(chance.randint(4, 40)))
        made.append(TokenRow(ids, (True,) * len(ids), 1, Example(number + 1)))
    return made


def meeting(found: Ranks, computed: list[list[int]]) -> None:
    """Notes each portion that is computed here; the first is not over before every rank computes one."""
    inner = states._run

    def run(caches: Any, all_rows: Any, members: list[int]) -> Any:
        if not computed and not found.alone:
            found.store.add("computing", 1)
            deadline = time.monotonic() + 30
            while found.store.add("computing", 0) < found.size:
                assert time.monotonic() < deadline, "another rank waits for this one's portion"
                time.sleep(0.01)
        computed.append(list(members))
        return inner(caches, all_rows, members)

    vars(states)["_run"] = run  # in a forked child only


def filled(model: Path, folder: Path, count: int, shelf: str = "") -> list[list[list[int]]]:
    """Fills a cache by so many ranks; each leaves its states. What each computed, by rank."""
    folder.mkdir()

    def work(rank: int) -> None:
        torch.set_num_threads(1)
        with ranks.gathered(nothing) as found:
            base = models.load(model)
            where = folder / shelf.format(rank=rank)
            kept = Shelf(where, {"model": "m"}, width=WIDTH, dtype=torch.float32) if shelf else Memory()
            cache = BoundaryCache(Halves(base.model, Boundary(3, 5)), View(base.model), kept)
            computed: list[list[int]] = []
            meeting(found, computed)
            states.fill([cache], rows(), tokens=PORTION, ranks=found)
            cache.hold(rows())
            own = {str(row): cache.states(row).clone() for row in range(len(rows()))}
            safetensors.torch.save_file(own, folder / f"states-{rank}.safetensors")
            (folder / f"computed-{rank}.json").write_text(json.dumps(computed))
            found.end(Termination(outcome=Outcome.SEALED))

    assert crews.forked(work, count) == [0] * count
    return [json.loads((folder / f"computed-{rank}.json").read_text()) for rank in range(count)]


def volume_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.states"))


@pytest.mark.parametrize("shelf", ["", "shelf", "shelf-{rank}"], ids=["memory", "shared volume", "own volumes"])
def test_two_ranks_compute_half_of_the_portions_each_and_hold_the_bits_of_one(
    tiny: Path, tmp_path: Path, shelf: str
) -> None:
    (alone,) = filled(tiny, tmp_path / "one", 1, shelf)
    two = filled(tiny, tmp_path / "two", 2, shelf)
    assert len(alone) > 6
    assert [portion for pair in zip(*two, strict=False) for portion in pair] == alone[: 2 * (len(alone) // 2)]
    assert abs(len(two[0]) - len(two[1])) <= 1
    assert len(two[0]) + len(two[1]) == len(alone)
    one, *others = (
        (tmp_path / name).read_bytes()
        for name in ("one/states-0.safetensors", "two/states-0.safetensors", "two/states-1.safetensors")
    )
    assert others == [one, one]
    if shelf == "shelf":
        assert volume_bytes(tmp_path / "two") == volume_bytes(tmp_path / "one") > 0
    if "{rank}" in shelf:
        sizes = {volume_bytes(tmp_path / f"two/shelf-{rank}") for rank in range(2)}
        assert sizes == {volume_bytes(tmp_path / "one")}


def with_small_portions(folder: Path, rank: int, kill_at: int | None = None) -> None:
    """In a forked child only: many portions, each noted; killed in the middle of one."""
    vars(states)["fill"] = partial(states.fill, tokens=256)
    inner, seen = states._run, [0]

    def run(*told: Any) -> Any:
        seen[0] += 1
        if seen[0] == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with (folder / f"portions-{rank}").open("a") as file:
            file.write("x")
        return inner(*told)

    vars(states)["_run"] = run


def portions(folder: Path) -> list[int]:
    return [len(path.read_text()) for path in sorted(folder.glob("portions-*"))]


def run_file(root: Path, model: Path, medium: str) -> Path:
    training = {"epochs": 2, "effectiveBatchSize": 8, "learningRate": "0.005", "maxSequenceLength": 128}
    cache = {"medium": medium, "mode": "Enabled"}
    return runs.run_file(root, model, training={**training, "activationCache": cache})


def losses(root: Path) -> list[Any]:
    lines = runs.steps(root / "versions/v1/metrics.jsonl")
    return [[line[name] for name in ("loss", "gradNorm", "holdoutLoss") if name in line] for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize("medium", [pytest.param("Memory", marks=pytest.mark.exhaustive), "Volume"])
def test_a_rank_killed_in_the_fill_is_resumed_and_two_ranks_end_with_the_same_bits(
    tiny: Path, tmp_path: Path, medium: str
) -> None:
    """And with what one rank ends with, within rounding."""
    names = ("one", "two", "killed")
    one, two, killed = (run_file(tmp_path / name, tiny, medium) for name in names)
    for name in names:
        (tmp_path / f"notes-{name}").mkdir()

    def prepared(name: str, kill_at: int | None = None, who: int = 1) -> Any:
        notes = tmp_path / f"notes-{name}"
        return lambda rank=0: with_small_portions(notes, rank, kill_at if rank == who else None)

    assert runs.carry_out(one, prepared("one")) == 0
    assert crews.carried_out(two, prepared("two")) == [0, 0]
    assert crews.carried_out(killed, prepared("killed", 3)) == [Exit.PEER_LOST, -signal.SIGKILL]
    if medium == "Volume":
        assert volume_bytes(tmp_path / "killed") > 0
    assert crews.carried_out(killed, prepared("killed")) == [0, 0]

    # Before the fill each process checks the split with a portion of its own.
    first, second = (count - 1 for count in portions(tmp_path / "notes-two"))
    assert [first + second + 1] == portions(tmp_path / "notes-one")
    assert first - second in {0, 1}
    assert second > 2
    assert runs.adapter(tmp_path / "killed") == runs.adapter(tmp_path / "two")
    for lines, others in zip(losses(tmp_path / "one"), losses(tmp_path / "two"), strict=True):
        assert lines == pytest.approx(others, rel=1e-4)
    if medium == "Volume":
        done_twice = sum(portions(tmp_path / "notes-killed")) - first - second - 4
        assert done_twice <= 1  # what the first rank computed beside the one that was killed may be kept or not


def test_ranks_choose_one_medium_though_they_have_unlike_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first chooses, for the memory of the poorest; another one's objection is all ranks' objection."""
    seen = tmp_path / "seen"
    seen.mkdir()

    def chosen(asked: Any) -> Choice:
        (seen / f"bytes-{asked.ranks.rank}").write_text(str(asked.available_bytes))
        return Choice(CacheMedium.VOLUME, "measured")

    monkeypatch.setattr(opening, "_chosen", chosen)

    def work(rank: int) -> None:
        with ranks.gathered(nothing) as found:
            request = opening.Request(**{**plain(), "available_bytes": (rank + 1) << 20, "ranks": found})
            assert opening._agreed(request) == Choice(CacheMedium.VOLUME, "measured")
            assert found.any_word("no room" if rank else "") == "no room"
            assert found.any_word("") == ""
            assert found.each(rank + 0.5) == [0.5, 1.5]
            found.end(Termination(outcome=Outcome.SEALED))

    assert crews.forked(work) == [0, 0]
    assert {path.name: path.read_text() for path in seen.iterdir()} == {"bytes-0": str(1 << 20)}


def plain() -> dict[str, Any]:
    names = ("halves", "view", "rows", "watched", "epochs", "wishes", "dtype")
    return dict.fromkeys(names)
