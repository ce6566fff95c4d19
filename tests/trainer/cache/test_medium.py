"""Activations are kept where it costs least time, never where they do not fit; the volume's bandwidth is measured."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from topcoat.api.training import CacheMedium
from topcoat_trainer.cache import bandwidth, medium
from topcoat_trainer.cache.medium import Bandwidth, Choice, Circumstances
from topcoat_trainer.errors import StorageFull

GIB = 1 << 30
# 10 million tokens of an 8B model in bf16, three epochs, ten minutes through the frozen layers.
LARGE = Circumstances(
    need_bytes=80 * GIB,
    memory_bytes=100 * GIB,
    disk_bytes=200 * GIB,
    volume=Bandwidth(1.0 * GIB, 2.0 * GIB),
    prefix_seconds=600,
    epochs=3,
)
SLOW = Bandwidth(0.1 * GIB, 0.1 * GIB)


@pytest.mark.parametrize(
    ("changes", "wanted", "why"),
    [
        ({}, CacheMedium.MEMORY, "80.0 GiB are kept in memory: 600 s instead of 1800 s"),
        (
            {"memory_bytes": 10 * GIB},
            CacheMedium.VOLUME,
            "80.0 GiB are kept on the volume: 800 s instead of 1800 s through the frozen layers in 3 epochs; 80.0 GiB",
        ),
        ({"wish": CacheMedium.VOLUME}, CacheMedium.VOLUME, "activationCache.medium is Volume"),
        ({"memory_bytes": 10 * GIB, "wish": CacheMedium.MEMORY}, None, "activationCache.medium is Memory"),
        ({"memory_bytes": 10 * GIB, "disk_bytes": GIB}, None, "80.0 GiB are needed on the volume, and 1.0 GiB may be"),
        (
            {"memory_bytes": 10 * GIB, "volume": SLOW},
            None,
            "a volume with 102.4 MiB/s read and 102.4 MiB/s written takes 3800 s",
        ),
        ({"wish": CacheMedium.VOLUME, "volume": SLOW}, None, "takes 3800 s"),
        ({"epochs": 1}, None, "each row is read once only"),
        ({"prefix_seconds": 0}, None, "nothing to compute twice"),
        ({"need_bytes": 0}, None, "nothing to compute twice"),
        ({"held_bytes": 80 * GIB}, CacheMedium.VOLUME, "120 s instead of 1800 s"),
        ({"held_bytes": 80 * GIB, "epochs": 1, "disk_bytes": 0}, CacheMedium.VOLUME, "40 s instead of 600 s"),
        ({"held_bytes": 80 * GIB, "volume": SLOW}, CacheMedium.MEMORY, "600 s instead of 1800 s"),
        ({"held_bytes": 60 * GIB, "memory_bytes": 0, "disk_bytes": 20 * GIB}, CacheMedium.VOLUME, "290 s instead of"),
    ],
)
def test_the_least_time_that_fits_is_chosen_and_said_with_figures(
    changes: dict[str, object], wanted: CacheMedium | None, why: str
) -> None:
    made = medium.choice(replace(LARGE, **changes))  # type: ignore[arg-type]
    assert made.medium is wanted
    assert why in made.reason


counts = st.one_of(st.integers(), st.integers(0, 1 << 40), st.just(10**400), st.just(-(10**400)))
numbers = st.one_of(st.floats(), st.floats(0, 1e12), st.integers(0, 10))
volumes = st.builds(Bandwidth, numbers, numbers)
circumstances = st.builds(
    Circumstances,
    need_bytes=counts,
    memory_bytes=counts,
    disk_bytes=counts,
    volume=volumes,
    prefix_seconds=numbers,
    epochs=numbers,
    wish=st.sampled_from(CacheMedium),
    held_bytes=st.one_of(st.just(0), counts),
)


def allowed(found: Circumstances, made: Choice) -> None:
    if made.medium is None:
        return
    assert made.medium in (CacheMedium.MEMORY, CacheMedium.VOLUME)
    assert found.wish in (made.medium, CacheMedium.AUTO)
    if made.medium is CacheMedium.MEMORY:
        assert found.need_bytes <= found.memory_bytes
        assert found.epochs > 1
        return
    held = min(max(found.held_bytes, 0), found.need_bytes)
    assert found.need_bytes - held <= max(found.disk_bytes, 0)
    assert found.volume.read_bytes_per_second > 0
    reading = found.need_bytes / found.volume.read_bytes_per_second
    assert reading <= found.prefix_seconds


@given(circumstances)
@example(replace(LARGE, need_bytes=10**400, memory_bytes=10**401))
@example(replace(LARGE, prefix_seconds=math.nan))
@example(replace(LARGE, prefix_seconds=math.inf))
@example(replace(LARGE, volume=Bandwidth(0, 0), memory_bytes=0))
@example(replace(LARGE, volume=Bandwidth(math.nan, math.nan), memory_bytes=0))
@example(replace(LARGE, volume=Bandwidth(-1, -1), wish=CacheMedium.VOLUME))
@example(replace(LARGE, need_bytes=-1, held_bytes=10))
def test_nothing_is_chosen_that_does_not_fit_or_takes_longer_than_computing_again(found: Circumstances) -> None:
    made = medium.choice(found)
    assert made.reason
    assert "\n" not in made.reason
    allowed(found, made)


sane = st.builds(
    Circumstances,
    need_bytes=st.integers(1, 1 << 44),
    memory_bytes=st.integers(0, 1 << 44),
    disk_bytes=st.integers(0, 1 << 44),
    volume=st.builds(Bandwidth, st.floats(1e6, 1e11), st.floats(1e6, 1e11)),
    prefix_seconds=st.floats(0.1, 1e6),
    epochs=st.floats(0.1, 100),
    held_bytes=st.integers(0, 1 << 44),
)


@given(sane)
def test_a_medium_that_fits_and_saves_time_is_used(found: Circumstances) -> None:
    made = medium.choice(found)
    allowed(found, made)
    if found.need_bytes <= found.memory_bytes and found.epochs > 1:
        assert made.medium is not None


def test_a_volume_is_measured_in_about_half_a_second_and_nothing_is_left(tmp_path: Path) -> None:
    began = time.perf_counter()
    found = bandwidth.measure(tmp_path)
    # What it says, and much for a busy machine.
    assert time.perf_counter() - began < 5
    assert 1e5 < found.write_bytes_per_second < 1e12
    assert 1e5 < found.read_bytes_per_second < 1e12
    assert list(tmp_path.iterdir()) == []


def test_a_slow_volume_is_seen_to_be_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync, preadv = os.fsync, os.preadv

    def slow_fsync(handle: int) -> None:
        time.sleep(0.1)
        fsync(handle)

    def slow_preadv(handle: int, blocks: list[bytearray], offset: int) -> int:
        time.sleep(0.02)
        return preadv(handle, blocks, offset)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    monkeypatch.setattr(os, "preadv", slow_preadv)
    found = bandwidth.measure(tmp_path)
    assert found.write_bytes_per_second < 8 * 2**20 / 0.3
    assert found.read_bytes_per_second < 2**20 / 0.02


def test_the_page_cache_is_emptied_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, fadvise, preadv = os.fsync, os.posix_fadvise, os.preadv

    def noted_fsync(handle: int) -> None:
        order.append("fsync")
        fsync(handle)

    def noted_fadvise(handle: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_DONTNEED:
            order.append("emptied")
        fadvise(handle, offset, length, advice)

    def noted_preadv(handle: int, blocks: list[bytearray], offset: int) -> int:
        order.append("read")
        return preadv(handle, blocks, offset)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "posix_fadvise", noted_fadvise)
    monkeypatch.setattr(os, "preadv", noted_preadv)
    bandwidth.measure(tmp_path)
    first = order.index("read")
    assert order[first - 2 : first] == ["fsync", "emptied"]
    assert "fsync" not in order[first:]


def test_a_small_volume_is_measured_with_what_fits_and_a_full_one_says_so(small_volume: Path) -> None:
    filler = small_volume / "filler"
    filler.write_bytes(bytes(300_000))
    assert bandwidth.measure(small_volume).read_bytes_per_second > 0
    with filler.open("ab", buffering=0) as file:
        for _ in range(os.statvfs(small_volume).f_bavail):
            file.write(bytes(4096))
    with pytest.raises(StorageFull):
        bandwidth.measure(small_volume)
    assert list(small_volume.iterdir()) == [filler]
