"""A store with a winner that serves and a loser beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import stores


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return stores.promoted(tmp_path / "store")
