"""What the volume holds of an attempt is found again when its last word was lost."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import runs, stores
from tests.trainer.report import reports
from topcoat.api.report import Termination
from topcoat_trainer import inspect, last_word, seal

HEADER = "import sys; from topcoat_trainer import inspect as room; code = room.main(sys.argv[1:])"


def asked(root: Path, run_file: Path) -> Termination:
    told = root / "told"
    told.write_text("")
    assert inspect.main(["--run-file", str(run_file), "--last-word", str(told)]) == 0
    assert len(told.read_bytes()) <= last_word.LIMIT_BYTES
    return Termination.model_validate_json(told.read_bytes())


@pytest.fixture
def volume(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of a volume with one sealed version and the run file that led to it."""
    root = tmp_path / "volume"
    shutil.copytree(unbroken, root)
    moved(root)
    return root


def moved(root: Path, **changes: Any) -> Path:
    told = json.loads((root / "run1.json").read_text())
    paths = {"run": str(root / "runs/r1"), "versions": str(root / "versions"), "cache": str(root / "cache")}
    (root / "run1.json").write_text(json.dumps({**told, "paths": paths, **changes}))
    return root / "run1.json"


def test_a_sealed_version_is_found_whatever_the_run_said(volume: Path) -> None:
    (volume / "runs/r1/termination.json").unlink()
    word = asked(volume, volume / "run1.json")
    digest = seal.digest(volume / "versions/v1")
    assert (word.outcome, word.version, word.digest, word.attempt) == ("Inspected", "v1", digest, 1)
    assert word.input_hash == "sha256:" + "e" * 64
    assert word.evaluation is not None
    assert word.evaluation.verdict == "Inconclusive"
    assert word.versions is not None
    assert [(note.version, note.digest, note.verdict) for note in word.versions] == [("v1", digest, "Inconclusive")]


def test_a_damaged_version_is_not_taken_for_success(volume: Path) -> None:
    stores.flip(volume / "versions/v1/adapter_model.safetensors")
    word = asked(volume, volume / "run1.json")
    assert (word.outcome, word.version, word.exit_code, word.reason) == ("Inspected", None, 16, "FileCorrupt")
    assert "adapter_model.safetensors" in word.message


def test_an_attempt_that_failed_is_heard_and_an_earlier_attempt_is_not(volume: Path) -> None:
    shutil.rmtree(volume / "versions")
    said = {"outcome": "Failed", "attempt": 2, "exitCode": 14, "category": "Diverged", "message": "m", "hint": "h"}
    (volume / "runs/r1/termination.json").write_text(json.dumps(said))
    word = asked(volume, moved(volume, attempt=2))
    assert (word.outcome, word.exit_code, word.category, word.message) == ("Inspected", 14, "Diverged", "m")
    assert word.versions == []
    later = asked(volume, moved(volume, attempt=3))
    assert (later.outcome, later.exit_code, later.category, later.attempt) == ("Inspected", 0, None, 3)


def test_a_seal_that_nothing_shows_is_not_believed(volume: Path) -> None:
    shutil.rmtree(volume / "versions/v1")
    word = asked(volume, volume / "run1.json")
    assert (word.version, word.digest, word.exit_code) == (None, None, 0)


@pytest.mark.parametrize("damage", ["no folder", "empty", "half a file"])
def test_a_volume_with_nothing_on_it_is_no_error(volume: Path, damage: str) -> None:
    shutil.rmtree(volume / "versions")
    shutil.rmtree(volume / "runs")
    if damage != "no folder":
        (volume / "versions").mkdir()
        (volume / "runs/r1").mkdir(parents=True)
    if damage == "half a file":
        (volume / "runs/r1/termination.json").write_text('{"outcome": "Fai')
        (volume / "versions/v1x").mkdir()
        (volume / "versions/v7").mkdir()
        (volume / "versions/v8").write_text("")
        (volume / "versions/v9").symlink_to(volume / "cache")
    word = asked(volume, volume / "run1.json")
    assert (word.outcome, word.version, word.versions) == ("Inspected", None, [])


def test_many_versions_are_cut_to_the_newest(volume: Path) -> None:
    for number in range(2, 41):
        stores.seal(volume / f"versions/v{number}", reports.promoted())
    word = asked(volume, volume / "run1.json")
    assert word.version == "v1"
    assert word.versions is not None
    names = [note.version for note in word.versions]
    assert names == [f"v{number}" for number in range(40, 40 - len(names), -1)]
    assert 5 < len(names) < 39


def test_it_needs_no_torch_and_changes_nothing(volume: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in volume.rglob("*")}
    code = f"{HEADER}\nassert code == 0 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, "--run-file", str(volume / "run1.json")], check=True, timeout=60)
    assert {path: path.stat().st_mtime_ns for path in volume.rglob("*")} == before


def test_a_run_file_that_is_none_is_said(tmp_path: Path) -> None:
    told = tmp_path / "told"
    assert inspect.main(["--run-file", str(tmp_path / "none"), "--last-word", str(told)]) == 10
    assert Termination.model_validate_json(told.read_bytes()).outcome == "Failed"
    assert runs.CANARY not in told.read_text()
