"""How fast a volume is written and read, found out in about half a second with a file that nobody ever sees.

The page cache is emptied of that file before it is read. A cache behind the kernel (of a disk, of a server) may still
answer; then so will it in training.
"""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

from topcoat_trainer import files
from topcoat_trainer.cache.medium import Bandwidth

SECONDS = 0.25
BLOCK_BYTES = 1 << 20
LARGEST_BYTES = 1 << 28


def measure(folder: Path) -> Bandwidth:
    """Of the volume that the folder is on. StorageFull where not even one block fits."""
    path = folder / f"{files.TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    with files.storing(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            path.unlink()
            written, write_seconds = _written(handle)
            read, read_seconds = _read(handle, written)
        finally:
            os.close(handle)
    return Bandwidth(written / write_seconds, read / read_seconds)


def _written(handle: int) -> tuple[int, float]:
    """Bytes and seconds. Portions double and each is made durable: a slow volume is not written more than it can."""
    # No volume can compress it.
    block = secrets.token_bytes(BLOCK_BYTES)
    total, portion = 0, 1
    began = time.perf_counter()
    while time.perf_counter() - began < SECONDS and total < LARGEST_BYTES:
        try:
            for _ in range(portion):
                total += os.pwrite(handle, block, total)
            os.fsync(handle)
        except OSError as error:
            if error.errno not in files.FULL or total == 0:
                raise
            os.ftruncate(handle, total)
            break
        portion *= 2
    return total, time.perf_counter() - began


def _read(handle: int, size: int) -> tuple[int, float]:
    """Bytes and seconds."""
    os.fsync(handle)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    total = 0
    block = bytearray(BLOCK_BYTES)
    began = time.perf_counter()
    while total < size and time.perf_counter() - began < SECONDS:
        total += os.preadv(handle, [block], total)
    return total, time.perf_counter() - began
