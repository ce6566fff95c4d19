"""Twelve families of transformers: each run freezes what it must, trains the tail and seals a version."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open

from tests.support import runs, tiny_models
from topcoat_trainer import seal


@pytest.mark.slow
@pytest.mark.parametrize("family", sorted(tiny_models.FAMILIES))
def test_a_run_on_any_family_seals_a_version(family: str, tmp_path: Path) -> None:
    training = {"maxSteps": 3, "effectiveBatchSize": 8, "learningRate": "0.005", "maxSequenceLength": 128}
    path = runs.run_file(tmp_path, runs.tiny(tmp_path / "model", family), training=training)
    assert runs.carry_out(path) == 0, runs.termination(tmp_path)["message"]
    manifest = seal.verify(tmp_path / "versions/v1")
    assert manifest.lineage.steps == 3
    with safe_open(tmp_path / "versions/v1/adapter_model.safetensors", "pt") as file:
        names = list(file.keys())
    assert names
    assert all(".3." in name or ".4." in name for name in names)
