"""What a shelf gives is what was put, bit by bit, or nothing: whatever has happened to its files."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from pathlib import Path

import pytest
import torch

from tests.support import shelves
from topcoat_trainer import files
from topcoat_trainer.cache import shard, shelf
from topcoat_trainer.errors import StorageFull, TrainerError, UserInputError

SOME = range(6)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_states_are_found_again_in_another_life_bit_by_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    with_states = shelves.filled(tmp_path, SOME, dtype)
    assert shelves.found(with_states, SOME) == set(SOME)
    with_states.close()
    again = shelves.opened(tmp_path, dtype=dtype)
    assert shelves.found(again, SOME) == set(SOME)
    assert set(again.names) == {shelves.entry_name(number) for number in SOME}
    assert len(again) == len(SOME)
    assert again.tokens == sum(len(shelves.states(number, dtype)) for number in SOME)
    assert again.size_bytes == again.tokens * shelves.WIDTH * dtype.itemsize
    assert again.damaged == 0
    assert again.find(shelves.entry_name(99)) is None


def test_states_are_views_of_the_file_and_outlive_the_shelf(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, SOME)
    one, other = made.find(shelves.entry_name(1)), made.find(shelves.entry_name(1))
    assert one is not None
    assert other is not None
    assert one.data_ptr() == other.data_ptr()
    assert one.data_ptr() % shard.ALIGN_BYTES == 0
    made.close()
    made.drop()
    assert shelves.bits(one) == shelves.bits(shelves.states(1))


def test_a_stray_write_never_reaches_the_file(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, SOME)
    mine = made.find(shelves.entry_name(1))
    assert mine is not None
    mine.fill_(7)
    assert shelves.found(shelves.opened(tmp_path), SOME) == set(SOME)


def test_a_part_of_a_larger_tensor_is_kept_alone(tmp_path: Path) -> None:
    made = shelves.opened(tmp_path)
    large = torch.arange(3 * 5 * 2 * shelves.WIDTH, dtype=torch.float32).view(3, 5, 2 * shelves.WIDTH)
    part = large[1, 1:4, : shelves.WIDTH].requires_grad_()
    made.put(shelves.entry_name(0), part)
    made.close()
    got = shelves.opened(tmp_path).find(shelves.entry_name(0))
    assert got is not None
    assert torch.equal(got, part)


def test_what_is_not_flushed_is_not_found_and_closing_flushes(tmp_path: Path) -> None:
    made = shelves.opened(tmp_path)
    made.put(shelves.entry_name(0), shelves.states(0))
    assert shelves.found(made, SOME) == set()
    assert shelves.found(shelves.opened(tmp_path), SOME) == set()
    made.close()
    made.close()
    assert shelves.found(shelves.opened(tmp_path), SOME) == {0}


def test_the_data_is_durable_before_any_record_of_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable: dict[int, int] = {}
    checked = []
    fsync, pwrite = os.fsync, os.pwrite

    def synced(handle: int) -> None:
        fsync(handle)
        durable[os.fstat(handle).st_ino] = os.fstat(handle).st_size

    def written(handle: int, data: memoryview, offset: int) -> int:
        whole = range(0, len(data) - 63, 64)
        for entry in filter(None, [shard.entry_or_none(bytes(data[at : at + 64])) for at in whole]):
            checked.append(entry.name)
            assert entry.offset + entry.length <= durable[shelves.data_file(made).stat().st_ino]
        return pwrite(handle, data, offset)

    made = shelves.opened(tmp_path)
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "pwrite", written)
    for number in SOME:
        made.put(shelves.entry_name(number), shelves.states(number))
        if number % 2:
            made.flush()
    assert len(checked) == len(SOME)
    for path in (shelves.data_file(made), shelves.index_file(made)):
        assert durable[path.stat().st_ino] == path.stat().st_size
    assert durable[made.path.stat().st_ino]


def test_other_keys_widths_and_dtypes_are_other_shelves(tmp_path: Path) -> None:
    shelves.filled(tmp_path, SOME).close()
    others = [
        shelves.opened(tmp_path, {**shelves.KEY, "boundary": "5"}),
        shelves.opened(tmp_path, dtype=torch.bfloat16),
        shelf.Shelf(tmp_path, shelves.KEY, width=4, dtype=torch.float32),
    ]
    assert [len(other) for other in others] == [0, 0, 0]
    assert len({other.path for other in others}) == 3
    backwards = dict(reversed(shelves.KEY.items()))
    assert len(shelves.opened(tmp_path, backwards)) == len(SOME)


def test_the_key_stands_beside_the_states_in_clear(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, SOME)
    text = (made.path / "key.json").read_bytes()
    assert json.loads(text)["key"] == shelves.KEY
    assert made.path.name == files.sha256_of_bytes(text)


def test_all_files_are_the_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        made = shelves.filled(tmp_path, SOME)
    finally:
        os.umask(before)
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in made.path.iterdir()}
    assert modes == {".states": 0o600, ".index": 0o600, ".json": 0o600}
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700


def test_looking_into_a_shelf_that_is_not_there_makes_none(tmp_path: Path) -> None:
    looked = shelves.opened(tmp_path / "none")
    assert shelves.found(looked, SOME) == set()
    looked.read_ahead([shelves.entry_name(0)])
    looked.close()
    looked.drop()
    looked.drop_others()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong", [torch.zeros(3, 9), torch.zeros(3, 8, dtype=torch.float16), torch.zeros(8), torch.zeros(0, 8)], ids=str
)
def test_states_of_another_form_are_refused(tmp_path: Path, wrong: torch.Tensor) -> None:
    with pytest.raises(TrainerError, match="were to be kept"):
        shelves.opened(tmp_path).put(shelves.entry_name(0), wrong)


def test_a_short_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="32 bytes"):
        shelves.opened(tmp_path).put(b"row 1", shelves.states(1))


def test_names_tell_token_ids_apart() -> None:
    rows = [[1, 2], [2, 1], [1], [1, 2, 0], [0, 1, 2], [], [258], [-1]]
    assert len({shelf.name(row) for row in rows}) == len(rows)
    assert shelf.name((1, 2)) == shelf.name([1, 2])


def flipped(path: Path, position: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1 << bit
    path.write_bytes(data)


def heals(folder: Path, gone: set[int], damaged: int) -> None:
    """The damaged are not found, the others are; put again, all are, in this life and the next."""
    looked = shelves.opened(folder)
    assert shelves.found(looked, SOME) == set(SOME) - gone
    assert looked.damaged == damaged
    assert shelves.found(looked, SOME) == set(SOME) - gone
    assert looked.damaged == damaged
    for number in gone:
        looked.put(shelves.entry_name(number), shelves.states(number))
    looked.close()
    assert shelves.found(shelves.opened(folder), SOME) == set(SOME)


@pytest.mark.parametrize("position", range(shard.RECORD.size))
def test_a_flipped_bit_anywhere_in_a_record_hides_that_entry_only(tmp_path: Path, position: int) -> None:
    made = shelves.filled(tmp_path, SOME)
    made.close()
    flipped(shelves.index_file(made), 2 * shard.RECORD.size + position, position % 8)
    heals(tmp_path, {2}, 1)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.25, 0.5, 0.75, 0.999, 1.0])
@pytest.mark.parametrize("number", [0, 3, 5])
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_anywhere_in_the_data_hides_that_entry_only(
    tmp_path: Path, number: int, share: float, bit: int
) -> None:
    made = shelves.filled(tmp_path, SOME)
    made.close()
    blocks = [shelves.index_file(made).read_bytes()[at : at + 64] for at in range(0, 64 * len(SOME), 64)]
    entry = shard.entry_or_none(blocks[number])
    assert entry is not None
    flipped(shelves.data_file(made), entry.offset + int(share * (entry.length - 1)), bit)
    heals(tmp_path, {number}, 1)


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 127, 128, 129, 6 * 64 - 63, 6 * 64 - 1, 6 * 64])
def test_a_cut_index_loses_what_comes_behind_the_cut(tmp_path: Path, size: int) -> None:
    made = shelves.filled(tmp_path, SOME)
    made.close()
    os.truncate(shelves.index_file(made), size)
    heals(tmp_path, set(range(size // shard.RECORD.size, len(SOME))), 0)


@pytest.mark.parametrize("beside", [-1, 0, 1])
@pytest.mark.parametrize("number", SOME)
def test_a_cut_data_file_loses_what_comes_behind_the_cut(tmp_path: Path, number: int, beside: int) -> None:
    made = shelves.filled(tmp_path, SOME)
    made.close()
    data = shelves.index_file(made).read_bytes()
    entries = [entry for at in SOME if (entry := shard.entry_or_none(data[64 * at : 64 * at + 64]))]
    size = entries[number].offset + entries[number].length + beside
    os.truncate(shelves.data_file(made), size)
    gone = {at for at in SOME if entries[at].offset + entries[at].length > size}
    heals(tmp_path, gone, len(gone))


def test_a_file_that_is_cut_while_it_is_open_is_noticed_before_it_is_read(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, SOME)
    assert shelves.found(made, SOME) == set(SOME)
    os.truncate(shelves.data_file(made), 0)
    assert shelves.found(made, SOME) == set()
    assert made.damaged == len(SOME)


def test_data_under_anothers_name_is_not_used(tmp_path: Path) -> None:
    made = shelves.opened(tmp_path)
    same = torch.ones(2, shelves.WIDTH)
    for number in (0, 1):
        made.put(shelves.entry_name(number), same * number)
    made.close()
    data = shelves.index_file(made).read_bytes()
    first, second = shard.entry_or_none(data[:64]), shard.entry_or_none(data[64:])
    assert first is not None
    assert second is not None
    swapped = [first._replace(name=second.name), second._replace(name=first.name)]
    shelves.index_file(made).write_bytes(b"".join(map(shard.record, swapped)))
    looked = shelves.opened(tmp_path)
    assert [looked.find(shelves.entry_name(number)) for number in (0, 1)] == [None, None]
    assert looked.damaged == 2


def test_a_damaged_entry_gives_way_to_another_process_copy(tmp_path: Path) -> None:
    one = shelves.filled(tmp_path, SOME)
    path = shelves.data_file(one)
    one.close()
    two = shelves.filled(tmp_path, SOME)
    two.close()
    for damaged in (path, next(other for other in one.path.glob("*.states") if other != path)):
        whole = damaged.read_bytes()
        damaged.write_bytes(bytes(len(whole)))
        assert shelves.found(shelves.opened(tmp_path), SOME) == set(SOME)
        damaged.write_bytes(whole)


def test_damage_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = shelves.filled(tmp_path, SOME)
    made.close()
    shelves.data_file(made).write_bytes(bytes(shelves.data_file(made).stat().st_size))
    looked = shelves.opened(tmp_path)
    with caplog.at_level(logging.INFO):
        assert shelves.found(looked, SOME) == set()
    assert looked.damaged == len(SOME)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(made.path) in caplog.text


@pytest.mark.parametrize("kind", [".states", ".index"])
@pytest.mark.parametrize("how", ["link", "folder", "pipe"])
def test_a_link_or_no_file_at_all_is_not_read(tmp_path: Path, kind: str, how: str) -> None:
    made = shelves.filled(tmp_path, SOME)
    made.close()
    (path,) = made.path.glob(f"*{kind}")
    path.rename(tmp_path / "elsewhere")
    if how == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif how == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert shelves.found(shelves.opened(tmp_path), SOME) == set()


def test_a_linked_folder_is_refused(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path / "a", SOME)
    made.close()
    made.path.rename(tmp_path / "elsewhere")
    made.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserInputError, match="symbolic link"):
        shelves.opened(tmp_path / "a")


def test_reading_ahead_asks_in_the_order_of_the_disk_and_never_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = shelves.filled(tmp_path, SOME)
    asked: list[tuple[int, int, str]] = []
    came = threading.Event()

    def advise(_: int, offset: int, length: int, __: int) -> None:
        asked.append((offset, length, threading.current_thread().name))
        came.set()
        raise OSError("no such advice here")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    names = [shelves.entry_name(number) for number in SOME]
    made.read_ahead([*reversed(names[:3]), shelves.entry_name(99)])
    assert came.wait(10)
    came.clear()
    made.read_ahead([names[5], names[3]])
    assert came.wait(10)
    assert threading.main_thread().name not in {thread for _, _, thread in asked}
    third = made.find(names[3])
    assert third is not None
    assert [offset for offset, _, _ in asked] == sorted(offset for offset, _, _ in asked)
    assert asked[0][0] == 0
    assert asked[0][1] >= sum(shelves.states(number).nbytes for number in range(3))
    for _ in range(1000):
        made.read_ahead(names)
    made.close()
    made.read_ahead(names)


def test_dropping_takes_this_key_only_and_dropping_others_all_but_this(tmp_path: Path) -> None:
    mine = shelves.filled(tmp_path, SOME)
    other = shelves.opened(tmp_path, {"model": "another"})
    other.put(shelves.entry_name(0), shelves.states(0))
    other.flush()
    left, outside = tmp_path / ".tmp-0123abcd", tmp_path / "notes"
    for folder in (left, outside, tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "file").touch()
    (tmp_path / ("f" * 64)).symlink_to(tmp_path / "elsewhere")
    mine.drop_others()
    assert {path.name for path in tmp_path.iterdir()} == {mine.path.name, "notes", "elsewhere"}
    assert (tmp_path / "elsewhere/file").exists()
    assert shelves.found(other, range(1)) == {0}
    assert shelves.found(mine, SOME) == set(SOME)
    mine.drop()
    assert not mine.path.exists()
    assert shelves.found(mine, SOME) == set()
    mine.put(shelves.entry_name(1), shelves.states(1))
    mine.flush()
    assert shelves.found(shelves.opened(tmp_path), SOME) == {1}


def test_room_and_limit_count_all_keys(tmp_path: Path) -> None:
    shelves.filled(tmp_path, range(40)).close()
    used = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    tight = shelves.opened(tmp_path, {"model": "another"}, limit=used + 1000)
    assert tight.room(500) == ""
    assert "sizeLimit is" in tight.room(1000)
    assert shelves.opened(tmp_path).room(1000) == ""
    assert "are free on the volume" in shelves.opened(tmp_path / "none/yet").room(1 << 60)
    for number in (7, 7):  # 1 KiB in all, were it not refused
        with pytest.raises(StorageFull, match="sizeLimit"):
            tight.put(shelves.entry_name(number), torch.zeros(30, shelves.WIDTH))
    tight.put(shelves.entry_name(8), torch.zeros(4, shelves.WIDTH))
    tight.close()
    assert len(shelves.opened(tmp_path, {"model": "another"})) == 1
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= used + 1000


def test_a_shard_larger_than_memory_can_be_mapped(tmp_path: Path) -> None:
    made = shelves.filled(tmp_path, SOME)
    made.close()
    os.truncate(shelves.data_file(made), 1 << 42)
    assert shelves.found(shelves.opened(tmp_path), SOME) == set(SOME)
