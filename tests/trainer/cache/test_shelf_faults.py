"""Kills, several processes, full disks: a shelf keeps what was flushed, and no entry is ever wrong."""

from __future__ import annotations

import functools
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import sealing, shelves
from topcoat_trainer import files
from topcoat_trainer.cache import shard
from topcoat_trainer.cache.shelf import Shelf
from topcoat_trainer.errors import StorageFull

MANY = range(100_000)


def status(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def telling(write: int, chance: random.Random, numbers: range) -> Callable[[Path], None]:
    """Fills a shelf and says each number that is flushed into a pipe, in portions of any size."""

    def work(folder: Path) -> None:
        made = shelves.opened(folder)
        put: list[int] = []
        for number in numbers:
            made.put(shelves.entry_name(number), shelves.states(number))
            put.append(number)
            if chance.random() < 0.2:
                made.flush()
                os.write(write, b"".join(one.to_bytes(4, "little") for one in put))
                put.clear()

    return work


def told(read: int) -> set[int]:
    with os.fdopen(read, "rb") as file:
        data = file.read()
    return {int.from_bytes(data[at : at + 4], "little") for at in range(0, len(data) - 3, 4)}


@pytest.mark.parametrize("seed", [1, 2])
def test_a_kill_at_any_moment_loses_only_what_was_not_flushed(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    flushed: set[int] = set()
    kills, begin = 0, 0
    while kills < 15 or len(flushed) < 50:
        read, write = os.pipe()
        numbers = range(begin, begin + 3000)
        child = sealing.forked(functools.partial(telling(write, chance, numbers), tmp_path))
        os.close(write)
        time.sleep(chance.uniform(0.01, 0.12))
        os.kill(child, signal.SIGKILL)
        kills += status(child) == -signal.SIGKILL
        flushed |= told(read)
        looked = shelves.opened(tmp_path)
        assert flushed <= shelves.found(looked, range(numbers.stop))
        assert len(looked) <= numbers.stop
        assert looked.damaged == 0
        looked.close()
        begin = max(flushed, default=-1) + 1


def test_a_kill_before_any_file_operation_loses_only_what_was_not_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealing, "OPERATIONS", (*sealing.OPERATIONS, "pwrite", "ftruncate"))

    def work(folder: Path) -> None:
        made = shelves.opened(folder)
        for number in range(4):
            made.put(shelves.entry_name(number), shelves.states(number))
            if number % 2:
                made.flush()
                (folder / f"flushed-{number}").touch()

    kills = 0
    for folder, unharmed in sealing.killed_at_every_file_operation(work, tmp_path):
        looked = shelves.opened(folder)
        seen = shelves.found(looked, range(4))
        for number in (1, 3):
            if (folder / f"flushed-{number}").exists():
                assert {number - 1, number} <= seen
        assert looked.damaged == 0
        looked.close()
        again = shelves.filled(folder, range(4))
        assert shelves.found(again, range(4)) == set(range(4))
        again.close()
        kills += not unharmed
    assert kills > 15


def test_two_processes_fill_one_shelf_while_a_third_reads_it(tmp_path: Path) -> None:
    def work(numbers: range) -> None:
        made = shelves.opened(tmp_path)
        for number in numbers:
            made.put(shelves.entry_name(number), shelves.states(number))
            if number % 10 == 0:
                made.flush()
        made.close()

    begun = {sealing.forked(functools.partial(work, numbers)) for numbers in (range(300), range(200, 500))}
    looked = shelves.opened(tmp_path)
    sizes = [0]
    while len(begun) > 0:
        looked.refresh()
        sizes.append(len(looked))
        assert len(shelves.found(looked, range(500))) == sizes[-1]
        for child in list(begun):
            done, code = os.waitpid(child, os.WNOHANG)
            if done:
                assert code == 0
                begun.remove(child)
    looked.refresh()
    assert shelves.found(looked, range(500)) == set(range(500))
    assert looked.damaged == 0
    assert sizes == sorted(sizes)
    assert len(list(looked.path.glob("*.states"))) == 2


def test_a_forked_child_writes_a_shard_of_its_own(tmp_path: Path) -> None:
    made = shelves.opened(tmp_path)
    made.put(shelves.entry_name(0), shelves.states(0))

    def work() -> None:
        made.read_ahead([shelves.entry_name(0)])
        for number in range(10, 20):
            made.put(shelves.entry_name(number), shelves.states(number))
        made.close()

    assert sealing.in_child(work) == 0
    made.put(shelves.entry_name(1), shelves.states(1))
    made.flush()
    assert shelves.found(made, range(20)) == {0, 1, *range(10, 20)}
    assert made.damaged == 0


def test_a_shelf_that_is_deleted_by_another_process_is_read_to_the_end(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, range(20))
    made.close()
    looked = shelves.opened(tmp_path)
    some = looked.find(shelves.entry_name(0))
    assert sealing.in_child(lambda: shelves.opened(tmp_path).drop()) == 0
    assert not looked.path.exists()
    assert some is not None
    assert shelves.bits(some) == shelves.bits(shelves.states(0))
    assert shelves.found(looked, range(20)) == set(range(20))
    looked.refresh()
    looked.put(shelves.entry_name(30), shelves.states(30))
    looked.flush()
    assert shelves.found(looked, range(40)) == {*range(20), 30}


def test_a_shelf_that_is_deleted_while_it_is_filled_harms_nobody(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, range(3))
    assert sealing.in_child(lambda: shelves.opened(tmp_path).drop()) == 0
    for number in range(3, 6):
        made.put(shelves.entry_name(number), shelves.states(number))
    made.flush()
    seen = shelves.found(made, range(6))
    assert seen >= {0, 1, 2}
    made.close()
    assert shelves.found(shelves.opened(tmp_path), range(6)) <= set(range(6))


def filled_up(made: Shelf, portion: int) -> tuple[set[int], set[int]]:
    """Puts until the disk is full; the numbers that had been flushed before, and all that were taken in."""
    flushed: set[int] = set()
    put: set[int] = set()
    with pytest.raises(StorageFull) as caught:  # noqa: PT012 - which of the calls finds it full is chance
        for number in MANY:
            made.put(shelves.entry_name(number), shelves.states(number))
            put.add(number)
            if len(put - flushed) == portion:
                made.flush()
                flushed |= put
    assert "no space left" in str(caught.value)
    assert str(made.folder) in caught.value.where
    return flushed, put


@pytest.mark.parametrize("portion", [1, 50, 1_000_000])
def test_a_full_volume_is_said_so_and_loses_nothing_that_was_flushed(small_volume: Path, portion: int) -> None:
    made = shelves.opened(small_volume)
    flushed, put = filled_up(made, portion)
    made.close()
    looked = shelves.opened(small_volume)
    seen = shelves.found(looked, range(max(put) + 1))
    assert flushed <= seen <= put
    # The last of them had to give their space to the records of the others, page by page.
    lost = sum(shelves.states(number).nbytes for number in put - seen)
    assert lost <= 64 * len(put) + 3 * 4096
    last = shard.entry_or_none(shelves.index_file(looked).read_bytes()[-64:])
    assert last is not None
    assert shelves.data_file(looked).stat().st_size == last.offset + last.length
    assert looked.damaged == 0
    looked.drop()
    again = shelves.filled(small_volume, range(50))
    assert shelves.found(again, range(50)) == set(range(50))
    again.close()


@pytest.mark.parametrize("free", [0, 1, 2])
def test_records_for_which_no_space_is_left_take_that_of_the_last_entries(small_volume: Path, free: int) -> None:
    """Whole pages only, and no page is left when the index is written."""
    made = shelves.opened(small_volume)
    page = torch.zeros(128, shelves.WIDTH)
    numbers = list(range(100))
    for number in numbers:
        made.put(shelves.entry_name(number), page + number)
    with (small_volume / "filler").open("wb", buffering=0) as file:
        room = os.statvfs(small_volume)
        for _ in range(room.f_bavail - free):
            file.write(bytes(4096))
    if free < 2:
        with pytest.raises(StorageFull):
            made.flush()
    else:
        made.flush()
    lost = {0: 2, 1: 1, 2: 0}[free]
    assert len(made) == 100 - lost
    made.close()
    looked = shelves.opened(small_volume)
    for number in numbers[: 100 - lost]:
        got = looked.find(shelves.entry_name(number))
        assert got is not None
        assert torch.equal(got, page + number)
    assert len(looked) == 100 - lost
    looked.close()


def test_a_limit_on_file_size_is_a_full_disk(tmp_path: Path) -> None:
    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        made = shelves.opened(tmp_path)
        flushed, put = filled_up(made, 10)
        made.close()
        assert shelves.found(shelves.opened(tmp_path), range(max(put) + 1)) == put >= flushed

    assert sealing.in_child(work) == 0
    assert len(shelves.opened(tmp_path)) > 100


@pytest.mark.parametrize("which", ["states", "index"])
def test_a_volume_that_fails_at_the_flush_gives_nothing_that_may_not_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    made = shelves.filled(tmp_path, range(3))
    fsync = os.fsync
    for number in range(3, 6):
        made.put(shelves.entry_name(number), shelves.states(number))

    def failing(handle: int) -> None:
        if Path(f"/proc/self/fd/{handle}").readlink().suffix == f".{which}":
            raise OSError(5, "Input/output error")
        fsync(handle)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", failing)
        with pytest.raises(OSError, match="Input/output"):
            made.flush()
    seen = shelves.found(made, range(6))
    assert seen == (set(range(3)) if which == "states" else set(range(6)))
    for number in range(3, 9):
        made.put(shelves.entry_name(number), shelves.states(number))
    made.close()
    assert shelves.found(shelves.opened(tmp_path), range(9)) == set(range(9))


def test_what_a_writer_gives_up_takes_no_space(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, range(3))
    size = shelves.data_file(made).stat().st_size
    child = shard.Writer(made.path)
    child.put(shelves.entry_name(9), memoryview(bytes(5000)))
    child.close()
    sizes = sorted(path.stat().st_size for path in made.path.glob("*.states"))
    assert sizes == [0, size]
    assert not list(made.path.glob(f"{files.TEMPORARY_PREFIX}*"))
