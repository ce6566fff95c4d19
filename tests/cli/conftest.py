"""A store with a winner that serves and a loser beside it; and stores with a really tuned tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.cluster.conftest import namespace, operator, team
from tests.support import runs, stores, tuned

__all__ = ["namespace", "operator", "team"]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return stores.promoted(tmp_path / "store")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.tiny(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def lora(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tuned.store(tmp_path_factory.mktemp("lora"), tiny)


@pytest.fixture(scope="session")
def full(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return tuned.store(tmp_path_factory.mktemp("full"), tiny, method={"type": "Full", "layers": 2})
