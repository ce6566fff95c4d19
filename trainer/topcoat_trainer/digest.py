"""Digests of large files, remembered: an unchanged file (path, size, time, inode) is not read again.

The memory is a cache, never a seal: `seal.verify` reads every byte itself.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path

from topcoat_trainer import files
from topcoat_trainer.errors import Corrupt, StorageFull

# A file changed within this time of being read could change again without its time stamp showing it.
SETTLED_NANOSECONDS = 2_000_000_000
MOST_ENTRIES = 10_000


class DigestBook:
    """SHA-256 of files, kept in one JSON file that may be deleted at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, str] = {}
        with contextlib.suppress(OSError, Corrupt):
            read = files.read_json(path)
            if isinstance(read, dict):
                self._known = {str(key): str(value) for key, value in read.items()}
        self._changed = False

    def sha256(self, path: Path) -> str:
        """Hex SHA-256 of the file."""
        fact = path.stat()
        key = f"{path.resolve()}:{fact.st_dev}:{fact.st_ino}:{fact.st_size}:{fact.st_mtime_ns}:{fact.st_ctime_ns}"
        found = self._known.get(key, "")
        if len(found) == hashlib.sha256().digest_size * 2:
            return found
        digest = files.sha256(path)
        after = path.stat()
        if (after.st_mtime_ns, after.st_size) == (fact.st_mtime_ns, fact.st_size) and _settled(after.st_mtime_ns):
            self._known[key] = digest
            self._changed = True
        return digest

    def keep(self) -> None:
        """Writes what was learnt; a full disk only costs the time to read the files again."""
        if self._changed:
            kept = dict(list(self._known.items())[-MOST_ENTRIES:])
            with contextlib.suppress(OSError, StorageFull):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                files.write_json(self._path, kept)


def _settled(changed_at_nanoseconds: int) -> bool:
    import time

    return time.time_ns() - changed_at_nanoseconds > SETTLED_NANOSECONDS


def combined(named: Iterable[tuple[str, str]]) -> str:
    """One digest over (role, digest) pairs, in their order."""
    return hashlib.sha256("".join(f"{digest}  {role}\n" for role, digest in named).encode()).hexdigest()
