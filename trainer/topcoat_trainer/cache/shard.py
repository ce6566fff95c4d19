"""One process's part of a shelf: a file of data that only grows, and an index of records that say what lies where.

A record is written when its data is durable, and both have a checksum: whatever a kill, a full disk or a bad block
leaves, an entry is whole or is none. Knows bytes and names, no tensors. Links are never followed.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import secrets
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from topcoat_trainer import files

# Magic and format, name, offset, length, checksum of name and data, checksum of the record up to here.
RECORD = struct.Struct("<8s32sQQII")
MAGIC = b"tcshelf1"
NAME_BYTES = 32
# Where an entry begins: kernels read whole cache lines.
ALIGN_BYTES = 64
DATA, INDEX = ".states", ".index"
# Records written at once.
BATCH = 4096
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a named pipe must not wait for a writer that never comes.
OLD = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
MODE = 0o600
# Python knows it from 3.13 on; Linux has had this number for it on x86 and Arm ever since.
MAP_NORESERVE = 0x4000


class Entry(NamedTuple):
    """Where one entry lies in its shard, and the checksum of its name and data."""

    name: bytes
    offset: int
    length: int
    checksum: int


def checksum(name: bytes, data: memoryview | bytes) -> int:
    """Over the name too, so that an entry found under another's name is no entry."""
    return zlib.crc32(data, zlib.crc32(name))


def record(entry: Entry) -> bytes:
    body = RECORD.pack(MAGIC, *entry, 0)[:-4]
    return body + zlib.crc32(body).to_bytes(4, "little")


def entry_or_none(block: bytes) -> Entry | None:
    """None where a single bit of the record is not as it was written."""
    magic, name, offset, length, check, own = RECORD.unpack(block)
    whole = magic == MAGIC and own == zlib.crc32(block[:-4])
    return Entry(name, offset, length, check) if whole else None


class Reader:
    """A shard of whichever process, growing or not. Its file stays open: one that is deleted meanwhile is read on."""

    def __init__(self, folder: int, stem: str) -> None:
        self.stem = stem
        self._taken = 0
        self._map: mmap.mmap | None = None
        self._handle = os.open(stem + DATA, OLD, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(self._handle).st_mode):
            self.close()
            raise OSError(errno.EINVAL, "not a regular file", stem + DATA)

    def news(self, folder: int) -> tuple[list[Entry], int]:
        """The entries that the index has got since the last call, and how many records are damaged. Half a record at
        the end is neither: its writer may be in the middle of it.
        """
        handle = os.open(self.stem + INDEX, OLD, dir_fd=folder)
        with os.fdopen(handle, "rb") as file:
            file.seek(self._taken)
            data = file.read()
        starts = range(0, len(data) - RECORD.size + 1, RECORD.size)
        found = [entry_or_none(data[start : start + RECORD.size]) for start in starts]
        self._taken += len(starts) * RECORD.size
        entries = [entry for entry in found if entry is not None]
        return entries, len(found) - len(entries)

    def mapped_or_none(self, entry: Entry) -> mmap.mmap | None:
        """A map that has the whole entry; None where the file is shorter. A page behind the end of a file is a fatal
        signal, so the length is asked each time; nobody here ever cuts what an index names, and who cuts a file from
        outside between this question and the reading does end the process.
        """
        end = entry.offset + entry.length
        size = os.fstat(self._handle).st_size
        if end > size:
            return None
        if self._map is None or end > len(self._map):
            # Private: a stray write never reaches the file. Without a reservation: it may be larger than memory.
            flags = mmap.MAP_PRIVATE | MAP_NORESERVE
            try:
                self._map = mmap.mmap(self._handle, size, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
            except (OSError, ValueError):
                return None
        return self._map

    def is_whole(self, entry: Entry) -> bool:
        """Reads all of the entry and compares it with its checksum."""
        block = self.mapped_or_none(entry)
        if block is None:
            return False
        with memoryview(block)[entry.offset : entry.offset + entry.length] as data:
            return checksum(entry.name, data) == entry.checksum

    def will_need(self, offset: int, length: int) -> None:
        os.posix_fadvise(self._handle, offset, length, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """The map is left to whoever still looks at it."""
        self._map = None
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


class Place(NamedTuple):
    """An entry, and the shard that it is in."""

    reader: Reader
    entry: Entry


class Writer:
    """A shard of this process alone. What is flushed is never touched again."""

    def __init__(self, path: Path) -> None:
        self.process = os.getpid()
        self.stem = secrets.token_hex(16)
        self._waiting: list[Entry] = []
        self._end = self._durable_end = self._index_end = 0
        self.size_bytes = 0
        folder = opened(path)
        try:
            self._data = os.open(self.stem + DATA, NEW, MODE, dir_fd=folder)
            try:
                self._index = os.open(self.stem + INDEX, NEW, MODE, dir_fd=folder)
            except OSError:
                os.close(self._data)
                raise
            os.fsync(folder)
        finally:
            os.close(folder)

    def put(self, name: bytes, data: memoryview) -> None:
        """Hands an entry to the kernel. One that does not fit leaves no trace."""
        start = -(-self._end // ALIGN_BYTES) * ALIGN_BYTES
        try:
            _write(self._data, data, start)
        except OSError:
            self._cut(self._end)
            raise
        self._waiting.append(Entry(name, start, len(data), checksum(name, data)))
        self._end = start + len(data)
        self.size_bytes = self._end + self._index_end + RECORD.size * len(self._waiting)

    @property
    def waits(self) -> bool:
        """Whether something is not flushed."""
        return bool(self._waiting)

    def flush(self) -> None:
        """Makes durable what was put: the data first. After an error the writer may only be closed."""
        os.fsync(self._data)
        full = 0
        while self._waiting:
            try:
                self._write_records()
            except OSError as error:
                if error.errno not in files.FULL:
                    raise
                # The last entry gives its space to the records of the others.
                full = error.errno or errno.ENOSPC
                self._keep_written()
                if self._waiting:
                    self._cut(self._waiting.pop().offset)
        os.fsync(self._index)
        if full:
            raise OSError(full, os.strerror(full))

    def _write_records(self) -> None:
        _write(self._index, memoryview(b"".join(map(record, self._waiting[:BATCH]))), self._index_end)
        self._keep_written()

    def _keep_written(self) -> None:
        """What has a whole record can be seen by others already, and stays."""
        whole = (os.fstat(self._index).st_size - self._index_end) // RECORD.size
        if whole:
            self._durable_end = self._waiting[whole - 1].offset + self._waiting[whole - 1].length
        del self._waiting[:whole]
        self._index_end += whole * RECORD.size

    def _cut(self, end: int) -> None:
        with contextlib.suppress(OSError):
            os.ftruncate(self._data, end)

    def close(self) -> None:
        """What was not flushed is given up, and its space with it: nobody has seen it."""
        if self._waiting:
            self._cut(self._durable_end)
        os.close(self._data)
        os.close(self._index)


def _write(handle: int, data: memoryview, offset: int) -> None:
    """All of it, or the kernel's error."""
    while data:
        count = os.pwrite(handle, data, offset)
        data, offset = data[count:], offset + count


def opened(path: Path) -> int:
    """A handle on a folder that is no link."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
