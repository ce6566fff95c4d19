"""A really tuned tiny model, exported by the real trainer in a process of its own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers

from tests.support import runs, stores, tuned
from topcoat.api.report import VersionManifest
from topcoat_trainer import adapter, probe
from topcoat_trainer import model as models

pytestmark = pytest.mark.slow  # each command starts torch in a process of its own


def version(store: Path) -> Path:
    return store / "jobs" / "claims-0f0f0f0f" / "versions" / "v1"


def manifest(store: Path) -> VersionManifest:
    return VersionManifest.model_validate_json((version(store) / "manifest.json").read_bytes())


def plain(folder: Path) -> Any:
    factory: Any = transformers.AutoModelForCausalLM
    return factory.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by an old name
def test_an_exported_adapter_answers_the_sealed_probes_in_stock_peft(lora: Path, tiny: Path, tmp_path: Path) -> None:
    said = stores.topcoat("export", "hf", "claims", tmp_path / "out", store=lora)
    assert said.code == 0, said.err
    assert said.last.startswith("Next: ")
    loaded: Any = peft.PeftModel.from_pretrained(plain(tiny), str(tmp_path / "out"))
    assert probe.difference(loaded.eval(), manifest(lora).probes) < 1e-4


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_merged_model_answers_the_sealed_probes_by_itself(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    store: Path = request.getfixturevalue(kind)
    said = stores.topcoat("export", "merged", "claims", tmp_path / "out", store=store)
    assert said.code == 0, said.err
    assert probe.difference(plain(tmp_path / "out"), manifest(store).probes) < 1e-4
    assert models.load(tmp_path / "out").tokenizer is not None  # and may be a base model itself


def test_a_full_tail_is_no_adapter(full: Path, tmp_path: Path) -> None:
    said = stores.topcoat("export", "hf", "claims", tmp_path / "out", store=full)
    assert said.code == 1
    assert "merged" in said.err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(lora: Path, tmp_path: Path) -> None:
    assert "there already" in stores.topcoat("export", "hf", "claims", tmp_path, store=lora).err


@pytest.mark.parametrize("form", ["hf", "merged"])
def test_a_version_with_one_flipped_byte_is_not_exported(lora: Path, tmp_path: Path, form: str) -> None:
    shutil.copytree(lora, tmp_path / "store")
    path = version(tmp_path / "store") / "adapter_model.safetensors"
    before = stores.sha256(path)
    stores.flip(path)
    said = stores.topcoat("export", form, "claims", tmp_path / "out", store=tmp_path / "store")
    assert said.code == 1
    assert all(word in said.err for word in (path.name, before, stores.sha256(path)))
    assert not (tmp_path / "out").exists()


def test_a_changed_base_model_is_not_merged(tmp_path: Path) -> None:
    base = runs.tiny(tmp_path / "base")
    store = tuned.store(tmp_path / "store", base)
    config = base / "config.json"
    config.write_text(config.read_text() + "\n")
    said = stores.topcoat("export", "merged", "claims", tmp_path / "out", store=store)
    assert said.code == 1
    assert "the base model changed" in said.err


def test_the_adapter_room_takes_what_was_exported(lora: Path, tiny: Path, tmp_path: Path) -> None:
    assert stores.topcoat("export", "hf", "claims", tmp_path / "out", store=lora).code == 0
    adapter.check(tmp_path / "out", models.load(tiny))
