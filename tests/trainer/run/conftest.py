"""One tiny model, and one unbroken run of it that all others are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import runs


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Bits depend on the number of threads, and a forked child may not use its parent's."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return runs.tiny(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session")
def unbroken(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a run that nothing disturbed."""
    root = tmp_path_factory.mktemp("unbroken")
    assert runs.carry_out(runs.run_file(root, tiny)) == 0
    return root
