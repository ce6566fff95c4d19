"""Manifests that are well formed and still cannot be carried out: `topcoat run` says so, and nothing is served."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import runs

CORPUS = sorted((Path(__file__).parents[1] / "api" / "invalid").glob("*.yaml"))
LATER = [path for path in CORPUS if path.read_text().splitlines()[0] in ("# caught by: plan", "# caught by: trainer")]
PROGRAM = "from topcoat.cli import app; app.main()"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and the rows that the corpus' manifests name."""
    folder = tmp_path_factory.mktemp("later")
    runs.tiny(folder / "model")
    runs.write_rows(folder / "claims.jsonl", runs.rows(128))
    return folder


def test_the_corpus_has_such_manifests() -> None:
    assert len(LATER) >= 11


@pytest.mark.parametrize("path", LATER, ids=lambda path: path.stem)
def test_what_cannot_be_carried_out_is_said_and_nothing_is_served(path: Path, desk: Path, tmp_path: Path) -> None:
    shutil.copy(path, desk / path.name)
    expected = path.read_text().splitlines()[2].removeprefix("# message: ")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "run", "-f", path.name, "--store", str(tmp_path / "store")],
        cwd=desk,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert expected in done.stdout + done.stderr
    aliases = tmp_path / "store" / "aliases.json"
    assert not aliases.exists() or json.loads(aliases.read_text()) == {}
    # A pinned version that is missing keeps the run from serving, not from training: it may be the next one.
    trained = list(tmp_path.glob("store/jobs/*/versions/v*"))
    assert not trained or path.stem == "pinned-version-never-sealed"
