"""One tiny model for all tests of the loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import courses


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return courses.tiny(tmp_path_factory.mktemp("models") / "llama")
