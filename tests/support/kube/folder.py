"""Where built tools and running clusters live: outside the tree, under the user's cache. Each running cluster has a
folder of its own, locked by the process that owns it. A folder that nobody locks is what a crashed run left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tests.support.kube import process

# Stands in a folder that outlives the process that made it: `make cluster`, ended by `make cluster-down`.
KEPT = "kept"


def cache() -> Path:
    """Topcoat's own part of the user's cache folder; made if absent."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    found = Path(base) / "topcoat"
    found.mkdir(parents=True, exist_ok=True)
    return found


@contextlib.contextmanager
def locked(path: Path) -> Iterator[IO[str]]:
    """Waits for the lock of a file; held until the end of the block, or of this process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield handle


class Owned:
    """A cluster's private folder. While this object is open, no other run takes the folder for a leftover."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise

    @classmethod
    def new(cls, kind: str) -> Owned:
        # Under a lock, so that nobody takes the folder for a leftover before it is ours.
        with locked(clusters() / ".lock"):
            path = clusters() / f"{kind}-{secrets.token_hex(3)}"
            path.mkdir(mode=0o700)
            return cls(path)

    @property
    def name(self) -> str:
        return self.path.name

    def make(self, name: str) -> Path:
        found = self.path / name
        found.mkdir(parents=True, exist_ok=True)
        return found

    def keep(self) -> None:
        """From now on this process may end and the cluster stays."""
        (self.path / KEPT).touch()

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.close()


def clusters() -> Path:
    found = cache() / "clusters"
    found.mkdir(exist_ok=True)
    return found


def kept() -> list[Path]:
    """Folders of the clusters that people started."""
    return sorted(path.parent for path in clusters().glob(f"*/{KEPT}"))


def abandoned() -> list[Owned]:
    """Folders whose owner is gone; each comes locked, so that only one run cleans it."""
    found = []
    with locked(clusters() / ".lock"):
        for path in clusters().iterdir():
            if path.is_dir() and not (path / KEPT).exists():
                with contextlib.suppress(BlockingIOError, FileNotFoundError):
                    found.append(Owned(path))
    return found


def end_processes(path: Path) -> int:
    """Kills every process recorded in the folder, the newest first; how many were still running."""
    records = sorted((path / "pids").glob("*"), key=lambda record: record.stat().st_mtime, reverse=True)
    return sum(process.end_recorded(record, grace_seconds=0) for record in records)
