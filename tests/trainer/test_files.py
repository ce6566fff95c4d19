"""Files are whole or absent, and no path leaves its root."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from topcoat_trainer import files
from topcoat_trainer.errors import Corrupt, StorageFull, UserInputError


def test_a_written_file_is_the_old_one_when_the_writer_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"b": 1})

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match=r"a\.json"):
        files.write_json(path, {"b": 2})
    assert files.read_json(path) == {"b": 1}
    assert files.listing(tmp_path) == ["a.json"]


def test_a_full_disk_noticed_by_another_language_is_storage_full(tmp_path: Path) -> None:
    with pytest.raises(StorageFull), files.storing(tmp_path):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="else"), files.storing(tmp_path):
        raise RuntimeError("something else")


def test_json_has_one_spelling_and_no_nan(tmp_path: Path) -> None:
    assert files.json_bytes({"b": 1, "a": "ä"}) == files.json_bytes({"a": "ä", "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.json_bytes(float("nan"))
    (tmp_path / "x.json").write_bytes(b"{")
    with pytest.raises(Corrupt, match=r"x\.json"):
        files.read_json(tmp_path / "x.json")


def test_half_a_letter_does_not_keep_a_file_from_being_written(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"name\udcff": "roof \ud83d\ude00 \ud800"})
    assert files.read_json(tmp_path / "a.json") == {"name\ufffd": "roof \U0001f600 \ufffd"}


def test_a_directory_appears_at_once_and_is_never_overwritten(tmp_path: Path) -> None:
    first = files.temporary_directory(tmp_path)
    (first / "a").write_text("1")
    files.publish(first, tmp_path / "v1")
    second = files.temporary_directory(tmp_path)
    with pytest.raises(FileExistsError):
        files.publish(second, tmp_path / "v1")
    assert (tmp_path / "v1" / "a").read_text() == "1"
    assert not first.exists()


def test_an_empty_directory_is_not_overwritten_either(tmp_path: Path) -> None:
    (tmp_path / "v1").mkdir()
    with pytest.raises(FileExistsError):
        files.publish(files.temporary_directory(tmp_path), tmp_path / "v1")


def test_the_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    files.temporary_directory(tmp_path)
    (tmp_path / f"{files.TEMPORARY_PREFIX}12-x.json").write_text("half")
    (tmp_path / "x.json").write_text("{}")
    files.sweep(tmp_path)
    assert files.listing(tmp_path) == ["x.json"]
    files.sweep(tmp_path / "absent")


@pytest.mark.parametrize("bad", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\0b", ".."])
def test_a_path_that_leaves_its_root_is_refused(tmp_path: Path, bad: str) -> None:
    with pytest.raises(UserInputError, match="relative"):
        files.beneath(tmp_path, bad)
    with pytest.raises(UserInputError, match="relative"):
        files.open_beneath(tmp_path, bad)


def test_links_are_not_followed_at_any_step(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("s")
    root = tmp_path / "root"
    (root / "plain").mkdir(parents=True)
    (root / "plain" / "file").write_text("ok")
    (root / "folder").symlink_to(tmp_path / "outside")
    (root / "file").symlink_to(tmp_path / "outside" / "secret")
    for name in ("folder/secret", "file"):
        with pytest.raises(UserInputError, match="link"):
            files.open_beneath(root, name)
        with pytest.raises(UserInputError, match="link"):
            files.beneath(root, name)
    with files.open_beneath(root, "plain/file") as file:
        assert file.read() == b"ok"
    with pytest.raises(Corrupt, match="link"):
        files.listing(root)


def test_a_missing_file_and_a_pipe_are_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        files.open_beneath(tmp_path, "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserInputError, match="regular"):
        files.open_beneath(tmp_path, "pipe")
    with pytest.raises(Corrupt, match="special"):
        files.listing(tmp_path)


def test_a_removed_tree_is_gone_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    files.remove_tree(tmp_path / "d")
    files.remove_tree(tmp_path / "d")
    assert list(tmp_path.iterdir()) == []


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(tmp_path / "a") == files.sha256_of_bytes(b"abc")
    assert files.sha256_of_bytes(b"abc").startswith("ba7816bf")
