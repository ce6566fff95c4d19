"""A tiny base model and sealed versions of it, made once for all tests of the server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# Tiny models gain nothing from more threads, and a forked child may not use its parent's. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from tests.support import served
from topcoat.api.report import TaskKind
from topcoat.api.server import WantedVersion
from topcoat_trainer.model import BaseModel


@dataclass
class Shop:
    """v1, v2: LoRA; v3: a full tail; v4: LoRA, a classifier with a shared system prompt."""

    base: BaseModel
    volume: Path
    versions: dict[str, WantedVersion]

    def folder(self, version: str) -> Path:
        return Path(self.versions[version].path)

    def digest(self, version: str) -> str:
        return self.versions[version].digest


LABELS = ["car", "house", "garden fence", "cat"]
SYSTEM = "Sort."


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    root = tmp_path_factory.mktemp("shop")
    base = served.base(root / "base")
    volume = root / "volume"
    sorting: dict[str, Any] = {"task": TaskKind.CLASSIFICATION, "labels": LABELS, "system_prompt": SYSTEM}
    versions = {
        "v1": served.version(base, volume / "v1", 1),
        "v2": served.version(base, volume / "v2", 2),
        "v3": served.version(base, volume / "v3", 3, kind="tail"),
        "v4": served.version(base, volume / "v4", 4, **sorting),
    }
    return Shop(base, volume, versions)


@pytest.fixture(scope="module")
def server(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Iterator[served.Server]:
    """`claims` is v1, all four versions are loaded, and `secret` needs a token."""
    folder = tmp_path_factory.mktemp("conf") / "server"
    token = folder.with_name("token")
    token.write_text("open-sesame\n")
    everything = list(shop.versions.values())
    claims = served.alias("claims", 1, everything, ["v1"])
    secret = served.alias("secret", 1, everything[:1], ["v1"], token_file=str(token))
    empty = served.alias("nobody", 1, [], [])
    with served.running(folder, shop.base, claims, secret, empty) as made:
        for version in shop.versions:
            made.until_proved(version)
        yield made
