"""Checkpoints are whole or absent; the newest one that can be trusted is used; old ones go last."""

from __future__ import annotations

import errno
import logging
import os
import random
from pathlib import Path

import pytest
import torch

from tests.support import sealing
from topcoat_trainer import files
from topcoat_trainer.errors import Corrupt, StorageFull
from topcoat_trainer.loop.checkpoint import Checkpoint, Store


def checkpoint(step: int) -> Checkpoint:
    weights = {"a": torch.full((3, 4), float(step)), "b": torch.arange(5, dtype=torch.bfloat16)}
    return Checkpoint(step, weights, {"step/a": torch.tensor(float(step))}, {"step": step, "note": "ä"})


def store(folder: Path, keep: int = 2, identity: str = "me") -> Store:
    return Store(folder, identity=identity, keep=keep)


def equal(first: Checkpoint, second: Checkpoint) -> bool:
    pairs = ((first.weights, second.weights), (first.optimizer, second.optimizer))
    tensors = all(a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a) for a, b in pairs)
    return tensors and first.step == second.step and dict(first.state) == dict(second.state)


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    kept = store(tmp_path / "c")
    assert kept.newest() is None
    kept.save(checkpoint(3))
    found = kept.newest()
    assert found is not None
    assert equal(found, checkpoint(3))


def test_no_pickle_is_ever_written(tmp_path: Path) -> None:
    store(tmp_path).save(checkpoint(1))
    assert {Path(name).suffix for name in files.listing(tmp_path)} == {".safetensors", ".json"}


def test_only_so_many_are_kept_and_the_pinned_ones(tmp_path: Path) -> None:
    kept = store(tmp_path)
    for step in (1, 2, 3, 4):
        kept.save(checkpoint(step), pinned=[1])
    assert kept.steps() == [1, 3, 4]


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.save(checkpoint(1))
    with pytest.raises(FileExistsError):
        kept.save(checkpoint(1))
    assert kept.newest() is not None
    assert not list(tmp_path.glob(files.TEMPORARY_PREFIX + "*"))


def test_a_process_that_was_replaced_prunes_nothing_of_its_replacements(tmp_path: Path) -> None:
    zombie = store(tmp_path)
    for step in (3, 6):
        zombie.save(checkpoint(step))
    heir = Store(tmp_path, identity="me", keep=2, writer_name="heir")
    found = heir.newest()
    assert found is not None
    assert equal(found, checkpoint(6))
    for step in (9, 12, 15):
        zombie.save(checkpoint(step))
        assert zombie.steps() == [step - 3, step]
    assert heir.steps() == [3, 6]
    assert heir.newest() is not None, "the zombie has pruned what its replacement goes back to"
    assert equal(heir.load(6), checkpoint(6))


def test_two_processes_may_save_the_same_step_at_the_same_time(tmp_path: Path) -> None:
    first, second = (Store(tmp_path, identity="me", keep=2, writer_name=name) for name in ("first", "second"))
    for step in (1, 2, 3):
        for kept in (first, second):
            kept.save(checkpoint(step))
    assert first.steps() == second.steps() == [2, 3]
    assert first.folder(3) != second.folder(3)
    assert equal(first.load(3), second.load(3))
    third = store(tmp_path)
    assert third.steps() == [2, 3]
    third.save(checkpoint(4))
    assert third.steps() == [3, 4]
    assert {path.name.split("-")[1] for path in tmp_path.iterdir()} == {"00000003", "00000004"}


def test_a_volume_without_hard_links_is_copied_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(tmp_path).save(checkpoint(1))

    def refused(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", refused)
    heir = Store(tmp_path, identity="me", keep=2, writer_name="heir")
    found = heir.newest()
    assert found is not None
    assert equal(found, checkpoint(1))


def test_a_checkpoint_that_goes_while_it_is_read_is_passed_over(tmp_path: Path) -> None:
    zombie = store(tmp_path)
    zombie.save(checkpoint(1))
    zombie.save(checkpoint(2))
    heir = Store(tmp_path, identity="me", keep=2, writer_name="heir")
    files.remove_tree(zombie.folder(2))
    found = heir.newest()
    assert found is not None
    assert equal(found, checkpoint(1))


def test_a_checkpoint_of_other_inputs_is_not_used(tmp_path: Path) -> None:
    store(tmp_path, identity="other").save(checkpoint(1))
    with pytest.raises(Corrupt, match="another run"):
        store(tmp_path).check(1)
    assert store(tmp_path).newest() is None


def test_every_bit_flip_and_truncation_falls_back_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(0)
    caplog.set_level(logging.WARNING)
    for number in range(60):
        kept = store(tmp_path / str(number))
        kept.save(checkpoint(1))
        kept.save(checkpoint(2))
        folder = kept.folder(2)
        path = folder / sorted(files.listing(folder))[number % 4]
        data = bytearray(path.read_bytes())
        if number < 40:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        else:
            del data[chance.randrange(len(data)) :]
        path.write_bytes(data)
        caplog.clear()
        found = kept.newest()
        assert found is not None
        # A flipped space in the manifest is no harm; everything else must be seen.
        harmless = path.name == "manifest.json" and found.step == 2
        assert harmless or (equal(found, checkpoint(1)) and "step 2 is not used" in caplog.text)
        kept.save(checkpoint(3))


@pytest.mark.parametrize("damage", ["missing", "extra", "no manifest", "manifest is a list", "no files"])
def test_a_damaged_folder_is_not_used(tmp_path: Path, damage: str) -> None:
    kept = store(tmp_path)
    kept.save(checkpoint(1))
    folder = kept.folder(1)
    if damage == "missing":
        (folder / "state.json").unlink()
    elif damage == "extra":
        (folder / "x").write_text("x")
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    elif damage == "no files":
        (folder / "manifest.json").write_text('{"formatVersion": 1, "identity": "me", "step": 1, "files": 3}')
    else:
        (folder / "manifest.json").write_text("[]")
    assert kept.newest() is None
    kept.save(checkpoint(1))
    assert kept.newest() is not None


def test_a_kill_at_any_file_operation_leaves_a_valid_checkpoint(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    newest = set()

    def work(folder: Path) -> None:
        kept = store(folder, keep=1)
        kept.save(checkpoint(1))
        (folder / "first").write_text("")
        kept.save(checkpoint(2))

    for folder, _ in sealing.killed_at_every_file_operation(work, tmp_path):
        found = store(folder, keep=1).newest()
        if (folder / "first").exists():
            assert found is not None
        if found is not None:
            assert equal(found, checkpoint(found.step))
        newest.add(found.step if found else 0)
        again = store(folder, keep=1)
        again.sweep()
        again.save(checkpoint(3))
        assert not list(folder.glob(files.TEMPORARY_PREFIX + "*"))
    assert newest == {0, 1, 2}


def test_a_disk_that_fills_up_at_any_write_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, left = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    outcomes = []
    for writes in range(1, 12):
        kept = store(tmp_path / str(writes), keep=1)
        left = 0
        kept.save(checkpoint(1))
        left = writes
        outcomes.append(saved(kept, checkpoint(2)))
        found = kept.newest()
        assert found is not None
        assert equal(found, checkpoint(found.step))
    assert outcomes[:5] == [False] * 5
    assert outcomes[-1]


def saved(kept: Store, new: Checkpoint) -> bool:
    try:
        kept.save(new)
    except StorageFull:
        return False
    return True


def test_a_really_full_volume_is_storage_full_and_the_checkpoint_before_is_intact(small_volume: Path) -> None:
    kept = Store(small_volume / "c", identity="me", keep=2)
    kept.save(checkpoint(1))
    big = Checkpoint(2, {"a": torch.zeros(1 << 20)}, {}, {})
    with pytest.raises(StorageFull, match="no space left"):
        kept.save(big)
    found = kept.newest()
    assert found is not None
    assert equal(found, checkpoint(1))
    assert kept.steps() == [1]
