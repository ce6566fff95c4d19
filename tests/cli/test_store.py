"""The store: objects that are whole at any time, generations that count changes, one hand at a time."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support import worlds
from topcoat.cli import durable, store, terminal

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_new_job_gets_a_uid_and_its_first_generation(tmp_path: Path) -> None:
    here = store.Store(tmp_path)
    made = here.apply(worlds.job(), NOW)
    assert made.metadata.generation == 1
    assert len(made.metadata.uid) == 36
    assert here.job("claims") == made
    assert here.job("finetunejob.topcoat.dev/claims") == made


def test_a_generation_counts_changes_of_the_spec(tmp_path: Path) -> None:
    here = store.Store(tmp_path)
    first = here.apply(worlds.job(), NOW)
    again = here.apply(worlds.job(), NOW)
    changed = here.apply(worlds.job({"training": {"epochs": 2}}), NOW)
    assert (again.metadata.generation, changed.metadata.generation) == (1, 2)
    assert first.metadata.uid == changed.metadata.uid


def test_a_spec_is_kept_as_it_was_written(tmp_path: Path) -> None:
    here = store.Store(tmp_path)
    here.apply(worlds.job({"training": {"epochs": 3}}), NOW)
    body = json.loads((tmp_path / "finetunejobs" / "claims.json").read_text())
    assert body["spec"]["training"] == {"epochs": 3}
    assert "method" not in body["spec"]


def test_applying_keeps_the_status(tmp_path: Path) -> None:
    here = store.Store(tmp_path)
    world = worlds.World(job=here.apply(worlds.job(), NOW))
    world.settle()
    here.write(world.job)
    assert here.apply(worlds.job({"suspend": True}), NOW).status == world.status


def test_an_alias_has_one_job_and_a_job_one_alias(tmp_path: Path) -> None:
    here = store.Store(tmp_path)
    entry = {"job": "claims", "version": "v1", "digest": worlds.digest("v1"), "path": "p"}
    here.point("old-name", entry)
    here.point("other", {**entry, "job": "letters"})
    here.point("claims", entry)
    assert set(here.aliases()) == {"claims", "other"}
    here.drop("claims")
    assert set(here.aliases()) == {"other"}


def test_the_default_profile_is_always_there_and_a_written_one_counts(tmp_path: Path) -> None:
    here = store.Store(tmp_path)
    assert here.profile_or_none("default") is not None
    assert here.profile_or_none("strict") is None
    (tmp_path / "profiles").mkdir()
    path = tmp_path / "profiles" / "strict.yaml"
    path.write_text("metadata: {name: strict}\nspec: {allowedModelURIs: ['file://*'], limits: {maxEpochs: 1}}\n")
    found = here.profile_or_none("strict")
    assert found is not None
    assert found.spec.limits.max_epochs == 1
    path.write_text("metadata: {name: strict}\nspec: {limits: {maxEpochs: none}}\n")
    with pytest.raises(terminal.Failure, match=r"spec\.limits\.maxEpochs"):
        here.profile_or_none("strict")


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "one.json"
    durable.write_json(path, {"a": 1})

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(terminal.Failure, match="no space left"):
        durable.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [found.name for found in tmp_path.iterdir()] == ["one.json"]


def test_a_lock_is_one_hands_and_dies_with_it(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "claims.run"
    assert not durable.is_taken(path)
    handle = durable.take_or_none(path)
    assert handle is not None
    assert durable.take_or_none(path) is None
    assert durable.is_taken(path)
    os.close(handle)
    assert not durable.is_taken(path)
