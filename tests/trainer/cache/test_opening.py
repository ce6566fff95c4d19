"""A run's cache: used where it pays and is exact, kept if wished, never used when spoilt, never in the way."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.cache.test_states import token_rows
from topcoat.api.training import ActivationCache, CacheMedium
from topcoat_trainer import model
from topcoat_trainer.boundary import Boundary
from topcoat_trainer.cache import opening, shelf, states
from topcoat_trainer.cache.opening import Opened, Request
from topcoat_trainer.errors import StorageFull, UserInputError
from topcoat_trainer.example import TokenRow
from topcoat_trainer.halves import Halves
from topcoat_trainer.loop import survey

Load = Callable[[str], model.BaseModel]
KEEP: dict[str, Any] = {"keep": True}
EDGE = Boundary(3, 5)


def request(base: model.BaseModel, rows: list[TokenRow], folder: Path, wishes: dict[str, Any], **more: Any) -> Request:
    folder.mkdir(exist_ok=True)
    return Request(
        halves=[Halves(base.model, EDGE)],
        view=survey.view(base.model, rows, packing=True),
        rows=rows[:-3],
        watched=rows[-3:],
        epochs=3,
        wishes=ActivationCache.model_validate(wishes),
        dtype=torch.float32,
        available_bytes=1 << 30,
        folder=folder / "activations",
        key={"model": base.digest},
        plan=folder / "fill.bin",
        **more,
    )


def bits(found: Opened) -> list[bytes]:
    return [
        cache.states(row).numpy().tobytes()
        for cache in (*found.rows, *found.watched)
        for row in range(len(cache._rows))
    ]


def computed(asked: Request) -> tuple[Opened, int]:
    """What was opened, and how many rows were computed for it, the checks left out."""
    seen: list[int] = []
    found = opening.opened(replace(asked, progress=lambda done, _: seen.append(done)))
    return found, max(seen, default=0)


def test_what_fits_lies_in_memory_and_says_what_it_saves(load: Load, tmp_path: Path) -> None:
    found = opening.opened(request(load("llama"), token_rows(12), tmp_path, {}))
    assert found.medium is CacheMedium.MEMORY
    assert found.note.startswith(
        "Activation cache: 3 of 5 layers run once per row instead of 3 times; kept in memory; "
    )
    assert found.tokens == sum(row.read_tokens for row in token_rows(12)[:-3])
    assert found.size_bytes == found.tokens * 32 * 4
    assert not (tmp_path / "activations").exists()


def test_memory_and_volume_hold_the_same_bits(load: Load, tmp_path: Path) -> None:
    base, rows = load("llama"), token_rows(30)
    kept = opening.opened(request(base, rows, tmp_path, {"medium": "Volume", "mode": "Enabled"}))
    assert kept.medium is CacheMedium.VOLUME
    assert bits(kept) == bits(opening.opened(request(base, rows, tmp_path / "other", {})))


def test_a_retrain_computes_only_the_rows_that_are_new(load: Load, tmp_path: Path) -> None:
    base, rows = load("llama"), token_rows(40)
    first, filled = computed(request(base, rows, tmp_path, KEEP))
    assert filled == 40
    first.close()
    (tmp_path / "fill.bin").unlink()  # a new run
    again, filled = computed(request(base, [*token_rows(2, seed=9), *rows], tmp_path, KEEP))
    assert filled == 2
    again.close()
    (tmp_path / "fill.bin").unlink()
    assert computed(request(base, rows, tmp_path, KEEP))[1] == 0


@pytest.mark.parametrize("what", ["model", "transformers", "boundary"])
def test_states_of_another_model_library_or_boundary_are_never_used(what: str, load: Load, tmp_path: Path) -> None:
    base, rows = load("llama"), token_rows(10)
    opening.opened(request(base, rows, tmp_path, KEEP)).close()
    (tmp_path / "fill.bin").unlink()
    asked = request(base, rows, tmp_path, KEEP)
    if what == "boundary":
        asked = replace(asked, halves=[Halves(base.model, Boundary(2, 5))])
    else:
        asked = replace(asked, key={**asked.key, what: "another"})
    assert computed(asked)[1] == 10


def test_a_spoilt_entry_is_computed_again_and_not_used(load: Load, tmp_path: Path) -> None:
    base, rows = load("llama"), token_rows(20)
    whole = opening.opened(request(base, rows, tmp_path, KEEP))
    expected = bits(whole)
    whole.close()
    chance = random.Random(1)
    shards = sorted((tmp_path / "activations").rglob("*.bin")) or [
        path for path in (tmp_path / "activations").rglob("*") if path.is_file() and path.stat().st_size > 10_000
    ]
    data = shards[0]
    for _ in range(6):
        with data.open("r+b") as file:
            place = chance.randrange(data.stat().st_size)
            file.seek(place)
            byte = file.read(1)[0]
            file.seek(place)
            file.write(bytes([byte ^ 0x10]))
    (tmp_path / "fill.bin").unlink()
    found, filled = computed(request(base, rows, tmp_path, KEEP))
    assert 0 < filled <= 6
    for one, other in zip(bits(found), expected, strict=True):
        pairs = zip(struct.unpack(f"{len(one) // 4}f", one), struct.unpack(f"{len(other) // 4}f", other), strict=True)
        assert max(abs(a - b) for a, b in pairs) < 2e-5


def test_an_entry_that_is_spoilt_while_training_reads_is_computed_again(load: Load, tmp_path: Path) -> None:
    base, rows = load("llama"), token_rows(8)
    found = opening.opened(request(base, rows, tmp_path, {}))
    kept = found.rows[0].kept
    assert isinstance(kept, states.Memory)
    before = found.rows[0].states(2).clone()
    del kept._states[shelf.name(found.rows[0]._rows[2])]
    torch.testing.assert_close(found.rows[0].states(2), before, rtol=0, atol=2e-5)


def test_a_fill_that_was_killed_goes_on_and_ends_with_the_same_bits(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(states, "FILL_TOKENS", 100)
    base, rows = load("llama"), token_rows(40)
    expected = bits(opening.opened(request(base, rows, tmp_path / "unbroken", {})))
    fill = states.fill
    monkeypatch.setattr(states, "fill", lambda *given, **named: fill(*given, **{**named, "tokens": 100}))
    unbroken = bits(opening.opened(request(base, rows, tmp_path / "unbroken", {})))
    assert unbroken != expected  # smaller portions are other company, so this test would see a difference

    class Killed(Exception):
        pass

    def killed(done: int, _: int) -> None:
        if done > 15:
            raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            opening.opened(request(base, rows, tmp_path, KEEP, progress=killed))
    assert bits(opening.opened(request(base, rows, tmp_path, KEEP))) == unbroken


def test_a_full_volume_is_said_once_and_memory_takes_its_place(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(states, "FILL_TOKENS", 100)
    put, count = shelf.Shelf.put, [0]

    def full(self: shelf.Shelf, entry_name: bytes, given: torch.Tensor) -> None:
        count[0] += 1
        if count[0] > 20:
            raise StorageFull("the volume is full")
        put(self, entry_name, given)

    monkeypatch.setattr(shelf.Shelf, "put", full)
    found = opening.opened(request(load("llama"), token_rows(40), tmp_path, KEEP))
    assert found.medium is CacheMedium.MEMORY
    assert "kept in memory, since the volume failed (the volume is full)" in found.note
    assert [record.message for record in caplog.records].count(
        "activation cache: the volume failed (the volume is full)"
    ) == 1
    monkeypatch.setattr(opening, "MEMORY_SHARE", 0.0)
    count[0] = 0
    (tmp_path / "fill.bin").unlink()
    without = opening.opened(request(load("llama"), token_rows(40), tmp_path / "second", {"medium": "Volume"}))
    assert without.rows == []


AGAINST: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "disabled": ({"mode": "Disabled"}, {}, "mode is Disabled"),
    "all layers": ({}, {"halves": []}, "every layer trains"),
    "one epoch": ({}, {"epochs": 1}, "read once only"),
    "limit": ({}, {"limit_bytes": 1000, "folder": None}, "may be used"),
    "memory": ({"medium": "Memory"}, {"available_bytes": 2000}, "in memory"),
}


@pytest.mark.parametrize("case", AGAINST)
def test_no_cache_where_it_would_not_pay_or_not_fit_and_the_reason_is_said(
    case: str, load: Load, tmp_path: Path
) -> None:
    wishes, changes, reason = AGAINST[case]
    found = opening.opened(replace(request(load("llama"), token_rows(10), tmp_path, wishes), **changes))
    assert found.rows == []
    assert found.note.startswith("No activation cache: ")
    assert reason in found.note


@pytest.mark.parametrize("case", ["all layers", "limit", "memory"])
def test_an_enabled_cache_that_cannot_be_used_is_an_error(case: str, load: Load, tmp_path: Path) -> None:
    wishes, changes, reason = AGAINST[case]
    asked = request(load("llama"), token_rows(10), tmp_path, {**wishes, "mode": "Enabled"})
    with pytest.raises(UserInputError, match="activation cache cannot be used") as refused:
        opening.opened(replace(asked, **changes))
    assert reason in refused.value.message


def test_an_enabled_cache_is_filled_even_for_one_epoch(load: Load, tmp_path: Path) -> None:
    asked = request(load("llama"), token_rows(10), tmp_path, {"mode": "Enabled"})
    assert opening.opened(replace(asked, epochs=1)).rows


def test_one_pass_fills_several_boundaries_with_the_bits_of_each_alone(load: Load, tmp_path: Path) -> None:
    base, rows = load("llama"), token_rows(12)
    edges = [Boundary(1, 5), Boundary(3, 5), Boundary(4, 5)]
    asked = request(base, rows, tmp_path, {})
    together = opening.opened(replace(asked, halves=[Halves(base.model, edge) for edge in edges]))
    alone = [
        opening.opened(replace(asked, halves=[Halves(base.model, edge)], plan=None)).rows[0].states(4) for edge in edges
    ]
    assert all(torch.equal(cache.states(4), one) for cache, one in zip(together.rows, alone, strict=True))
    assert os.path.commonpath([tmp_path, asked.plan or ""]) == str(tmp_path)
