"""Tiny models, made once per test session; each test loads its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import tiny_models
from topcoat_trainer import model

Folder = Callable[[str], Path]
Load = Callable[[str], model.BaseModel]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a family's tiny model. Read only: copy it before you break it."""
    made: dict[str, Path] = {}

    def of(family: str) -> Path:
        if family not in made:
            made[family] = tiny_models.make(family, tmp_path_factory.mktemp(family))
        return made[family]

    return of


@pytest.fixture
def load(folder: Folder) -> Load:
    return lambda family: model.load(folder(family))


@pytest.fixture
def llama(folder: Folder, tmp_path: Path) -> Path:
    """A copy of the tiny Llama that a test may break."""
    return Path(shutil.copytree(folder("llama"), tmp_path / "llama"))


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.tensor([[7, 90, 41, 12, 205, 33, 4, 18, 77, 260, 5, 2]])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Equal bits need equal threads, and tiny models are faster on one."""
    torch.set_num_threads(1)
