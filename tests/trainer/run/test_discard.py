"""One version goes, whole, and only the one that is meant."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.support import sealing, stores
from tests.trainer.report import reports
from topcoat.api.report import Termination
from topcoat_trainer import discard, seal


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Two sealed versions and a run file."""
    for name in ("v1", "v2"):
        stores.seal(tmp_path / "versions" / name, reports.promoted())
    paths = {"run": str(tmp_path / "runs/r2"), "versions": str(tmp_path / "versions"), "cache": str(tmp_path / "cache")}
    told = {
        "name": "claims", "uid": "u", "run": 2, "paths": paths,
        "baseModel": {"uri": "pvc://a/b"}, "dataset": {"train": {"uri": "pvc://a/c"}},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(told))
    return tmp_path


def discarded(root: Path, version: str = "v1", digest: str = "") -> tuple[int, Termination]:
    digest = digest or f"sha256:{seal.digest(root / 'versions' / version)}"
    arguments = ["--run-file", str(root / "run.json"), "--version", version, "--digest", digest]
    code = discard.main([*arguments, "--last-word", str(root / "told")])
    return code, Termination.model_validate_json((root / "told").read_bytes())


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "versions").iterdir())


def test_a_version_is_removed_and_doing_it_twice_is_fine(volume: Path) -> None:
    digest = seal.digest(volume / "versions/v1")
    for _ in range(2):
        code, word = discarded(volume, "v1", f"sha256:{digest}")
        assert (code, word.outcome, word.version, word.digest) == (0, "Discarded", "v1", digest)
        assert left(volume) == ["v2"]
    seal.verify(volume / "versions/v2")


def test_another_version_under_the_name_is_left_alone(volume: Path) -> None:
    code, word = discarded(volume, "v1", "0" * 64)
    assert (code, word.outcome, word.reason) == (16, "Failed", "FileCorrupt")
    assert "nothing was removed" in word.hint
    assert left(volume) == ["v1", "v2"]


def test_a_folder_that_was_never_sealed_is_left_alone(volume: Path) -> None:
    digest = seal.digest(volume / "versions/v1")
    (volume / "versions/v1/manifest.json").unlink()
    assert discarded(volume, "v1", digest)[0] == 16
    assert left(volume) == ["v1", "v2"]


@pytest.mark.parametrize("version", ["", ".", "..", "v0", "v1/../v2", "/etc", "v1\n", ".tmp-x"])
def test_only_a_versions_name_is_a_version(volume: Path, version: str) -> None:
    assert discarded(volume, version, "0" * 64)[0] == 10
    assert left(volume) == ["v1", "v2"]


def test_links_are_never_followed(volume: Path) -> None:
    digest = seal.digest(volume / "versions/v1")
    outside = volume / "outside"
    (volume / "versions/v1").rename(outside)
    (volume / "versions/v1").symlink_to(outside)
    assert discarded(volume, "v1", digest)[0] == 16
    (volume / "versions/v1").unlink()
    (volume / "versions/v2/folder").symlink_to(outside)
    assert discarded(volume, "v2")[0] == 0
    assert left(volume) == []
    assert seal.digest(outside) == digest


def test_a_kill_at_any_file_operation_leaves_the_version_whole_or_gone(volume: Path, tmp_path: Path) -> None:
    digest = seal.digest(volume / "versions/v1")
    seen = set()

    def work(folder: Path, killer: sealing.KillAt) -> None:
        stores.seal(folder / "versions/v1", reports.promoted())
        (folder / "run.json").write_text((volume / "run.json").read_text().replace(str(volume), str(folder)))
        killer.install()
        discard.main(["--run-file", str(folder / "run.json"), "--version", "v1", "--digest", digest])

    for limit in range(1, 60):
        folder, killer = tmp_path / f"k{limit}", sealing.KillAt(limit)
        folder.mkdir()
        killed = sealing.in_child(partial(work, folder, killer))
        if (folder / "versions/v1").exists():
            seal.verify(folder / "versions/v1")
            seen.add("whole")
        else:
            seen.add("gone")
        assert discarded(folder, "v1", digest)[0] == 0
        assert left(folder) == []
        if not killed:
            break
    assert seen == {"whole", "gone"}


def test_it_needs_no_torch(volume: Path) -> None:
    code = (
        "import sys; from topcoat_trainer import discard; code = discard.main(sys.argv[1:])\n"
        "assert code == 0 and 'torch' not in sys.modules"
    )
    digest = seal.digest(volume / "versions/v1")
    arguments = ["--run-file", str(volume / "run.json"), "--version", "v1", "--digest", digest]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, timeout=60, env=dict(os.environ))
