"""Files of the store that are either whole or absent, and locks that die with their processes.

Knows nothing of jobs. A lock is kept by everyone who has its open file, so a trainer that outlives us keeps its own.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from topcoat.cli import terminal

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def write_json(path: Path, value: Any) -> None:
    """Writes a file that is either the old one or the whole new one, whatever happens between."""
    data = (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    temporary = path.with_name(f".tmp-{secrets.token_hex(4)}-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if error.errno in FULL:
            terminal.fail("no space left to write this file", str(path), "free space; nothing that was there is lost")
        raise


def read_json_or_none(path: Path) -> Any:
    """The content, or None where the file is missing or not whole JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def take_or_none(path: Path) -> int | None:
    """The lock's open file, or None where somebody else has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def is_taken(path: Path) -> bool:
    """Whether somebody has the lock."""
    if not path.exists():
        return False
    handle = take_or_none(path)
    if handle is None:
        return True
    os.close(handle)
    return False


def take(path: Path) -> int:
    """The lock's open file, after waiting for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    fcntl.flock(handle, fcntl.LOCK_EX)
    return handle


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Waits for the lock; for what takes milliseconds."""
    handle = take(path)
    try:
        yield
    finally:
        os.close(handle)
