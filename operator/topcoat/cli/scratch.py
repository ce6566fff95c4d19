"""A private temporary folder for a process and its children. It goes with them; at the latest, the next one takes it.

Knows nothing of what lies in it. Its lock is kept by everyone who has its open file, so a child that outlives us keeps
its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from topcoat.cli import durable

PREFIX = "topcoat-serve-"
LOCK = "lock"


@dataclass(frozen=True, slots=True)
class Scratch:
    """The folder, for this user alone, and the open file of its lock, to hand to children."""

    path: Path
    lock: int


@contextlib.contextmanager
def scratch() -> Iterator[Scratch]:
    """A new folder; what dead ones left behind is removed first."""
    _sweep()
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = durable.take(path / ".lock")
    (path / ".lock").rename(path / LOCK)  # taken already when others can see it
    try:
        yield Scratch(path, lock)
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def _sweep() -> None:
    """Removes our folders whose processes are all gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.lstat().st_uid != os.getuid() or not (path / LOCK).is_file():
                continue
            lock = durable.take_or_none(path / LOCK)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)
