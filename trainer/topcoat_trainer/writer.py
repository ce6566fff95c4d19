"""Who writes in a run's folder. A node may be lost and its process write on, while a replacement has begun elsewhere.

So what a process makes bears its name, nobody prunes what another made, and the one that began last holds the claim.
"""

from __future__ import annotations

import functools
import os
import re
import secrets
from pathlib import Path

from topcoat_trainer import files
from topcoat_trainer.errors import TrainerError

CLAIM = ".writer"
POD = re.compile(r"[0-9a-f-]{1,36}")


def name() -> str:
    """The process's name on a shared volume: its pod's UID where it has one, and chance."""
    return _name(os.getpid())


@functools.cache
def _name(process: int) -> str:
    pod = os.environ.get("POD_UID", "")
    return f"{pod if POD.fullmatch(pod) else f'p{process}'}-{secrets.token_hex(4)}"


class Claim:
    """Who works in a folder now: whoever took it last. Take it under the folder's lock."""

    def __init__(self, folder: Path, writer: str = "") -> None:
        self._path = folder / CLAIM
        self.writer = writer or name()

    def take(self) -> None:
        files.write_bytes(self._path, self.writer.encode())

    def holds(self) -> bool:
        """Whether nobody took it since."""
        try:
            return self._path.read_bytes() == self.writer.encode()
        except OSError:
            return True

    def demand(self) -> None:
        """Ends a process that was given up and replaced, before it touches what is no longer its own."""
        if not self.holds():
            raise self.lost()

    def lost(self) -> TrainerError:
        where = str(self._path.parent)
        return TrainerError("another process took this run over", where=where, hint="nothing to do: it goes on")
