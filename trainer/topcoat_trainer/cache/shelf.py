"""A shelf keeps named states on a volume, for many processes at once: each writes its own shard, all read all.

What `find` gives is what was put, or nothing: see shard.py. A shelf knows no model: whatever decides the states must be
in its key, since shelves of other keys are never read. The folder holds shelves only. One thread at a time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import secrets
import shutil
import sys
from array import array
from collections.abc import Iterable, Iterator, KeysView, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from topcoat_trainer import files
from topcoat_trainer.cache import shard
from topcoat_trainer.cache.ahead import Ahead
from topcoat_trainer.errors import StorageFull, TrainerError, UserInputError

logger = logging.getLogger(__name__)

FORMAT = "1"
KEY = "key.json"
KEY_NAME = re.compile(r"[0-9a-f]{64}")
# Left for checkpoints, versions and other users of the volume; on a small volume a share of it.
RESERVE_BYTES = 1 << 30
RESERVE_SHARE = 0.05
# What an entry takes beside its states, at most.
OVERHEAD_BYTES = shard.RECORD.size + shard.ALIGN_BYTES - 1


def name(ids: Sequence[int]) -> bytes:
    """The name of a row's states: the SHA-256 of its token ids."""
    return hashlib.sha256(array("q", ids).tobytes()).digest()


class Shelf:
    """The states of one key beneath a folder. `damaged`: entries and records that were found and not believed."""

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, str],
        *,
        width: int,
        dtype: torch.dtype,
        limit_bytes: int | None = None,
    ) -> None:
        self.folder, self.width, self.dtype, self.limit_bytes = folder, width, dtype, limit_bytes
        self._key = files.json_bytes(_identity(key, width, dtype))
        self.path = folder / files.sha256_of_bytes(self._key)
        self.damaged = 0
        self._readers: dict[str, shard.Reader] = {}
        self._writer: shard.Writer | None = None
        self._places: dict[bytes, shard.Place] = {}
        # Where two processes have put the same name, the others.
        self._spare: dict[bytes, list[shard.Place]] = {}
        self._checked: set[bytes] = set()
        self._ahead = Ahead()
        self._used_bytes = 0
        self.refresh()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, entry_name: bytes) -> bool:
        return entry_name in self._places

    @property
    def names(self) -> KeysView[bytes]:
        """All that may be found. Whether an entry is whole shows when it is read first."""
        return self._places.keys()

    @property
    def size_bytes(self) -> int:
        """Of the states, every name once."""
        return sum(place.entry.length for place in self._places.values())

    @property
    def tokens(self) -> int:
        return self.size_bytes // self._token_bytes

    @property
    def _token_bytes(self) -> int:
        return self.width * self.dtype.itemsize

    def refresh(self) -> None:
        """Takes in what all processes have flushed since."""
        folder = self._folder_or_none()
        if folder is None:
            return
        try:
            for stem, kind in sorted(map(os.path.splitext, os.listdir(folder))):  # noqa: PTH208 - a handle is no Path
                if kind == shard.INDEX:
                    self._merge(folder, stem)
        finally:
            os.close(folder)

    def _folder_or_none(self) -> int | None:
        try:
            return shard.opened(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            raise UserInputError(
                "a symbolic link or a file stands where activations are kept",
                where=str(self.path),
                hint="remove it, or set activationCache.medium to Memory",
            ) from error

    def _merge(self, folder: int, stem: str) -> None:
        try:
            reader = self._readers.get(stem) or shard.Reader(folder, stem)
            self._readers[stem] = reader
            entries, bad = reader.news(folder)
        except OSError as error:
            # Deleted meanwhile, a link, a folder: whatever it is, it holds nothing for us.
            if error.errno != errno.ENOENT:
                self._tell(stem, os.strerror(error.errno or 0))
            return
        for entry in entries:
            if entry.length % self._token_bytes or not entry.length:
                bad += 1
            else:
                self._add(shard.Place(reader, entry))
        for _ in range(bad):
            self._tell(stem, "a record of its index is not as it was written")

    def _add(self, place: shard.Place) -> None:
        """The newest first."""
        before = self._places.get(place.entry.name)
        if before is not None:
            self._spare.setdefault(place.entry.name, []).append(before)
        self._places[place.entry.name] = place
        self._checked.discard(place.entry.name)

    def _tell(self, stem: str, why: str) -> None:
        self.damaged += 1
        level = logging.WARNING if self.damaged == 1 else logging.DEBUG
        logger.log(level, "kept activations %s in %s are not used: %s", stem, self.path, why)

    def find(self, entry_name: bytes) -> torch.Tensor | None:
        """The states, tokens by width, as a view of the file, or None. Do not write to them. What was put and not yet
        flushed is not found.
        """
        while (place := self._places.get(entry_name)) is not None:
            if entry_name in self._checked or place.reader.is_whole(place.entry):
                states = self._view_or_none(place)
                if states is not None:
                    self._checked.add(entry_name)
                    return states
            self._forget(place)
        return None

    def _view_or_none(self, place: shard.Place) -> torch.Tensor | None:
        block = place.reader.mapped_or_none(place.entry)
        if block is None:
            return None
        count = place.entry.length // self.dtype.itemsize
        flat = torch.frombuffer(block, dtype=self.dtype, count=count, offset=place.entry.offset)
        return flat.view(-1, self.width)

    def _forget(self, place: shard.Place) -> None:
        self._tell(place.reader.stem, "the states are not as they were written, or cut off")
        self._checked.discard(place.entry.name)
        spare = self._spare.get(place.entry.name)
        if spare:
            self._places[place.entry.name] = spare.pop()
        else:
            del self._places[place.entry.name]

    def put(self, entry_name: bytes, states: torch.Tensor) -> None:
        """Takes in the states; `flush` makes them last and lets them be found. A new entry takes the place of an old
        one. StorageFull: this one is not kept; those put before are flushed.
        """
        if states.dtype != self.dtype or states.dim() != 2 or states.shape[1] != self.width or not len(states):
            found = f"{states.dtype}, {tuple(states.shape)}"
            raise TrainerError(f"states of {self.dtype}, tokens by {self.width}, were to be kept, not {found}")
        if len(entry_name) != shard.NAME_BYTES:
            raise TrainerError(f"a name has {shard.NAME_BYTES} bytes, not {len(entry_name)}")
        data = states.detach().cpu().contiguous().view(torch.uint8).flatten().numpy().data
        try:
            with files.storing(self.path):
                writer = self._own_writer() or self._new_writer()
                self._limit(writer.size_bytes + len(data) + OVERHEAD_BYTES)
                writer.put(entry_name, data)
        except StorageFull:
            with contextlib.suppress(StorageFull):
                self.flush()
            raise

    def _own_writer(self) -> shard.Writer | None:
        """None also in a forked child: a shard is its parent's alone."""
        if self._writer is not None and self._writer.process != os.getpid():
            self._writer = None
        return self._writer

    def _new_writer(self) -> shard.Writer:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.mkdir(mode=0o700, exist_ok=True)
        folder = self._folder_or_none()
        if folder is None:
            raise FileNotFoundError(errno.ENOENT, "deleted by another process", str(self.path))
        try:
            _write_key(folder, self._key)
        finally:
            os.close(folder)
        files.sync_directory(self.folder)
        self._used_bytes = self._size_of_all()
        self._writer = shard.Writer(self.path)
        return self._writer

    def _limit(self, own_bytes: int) -> None:
        if self.limit_bytes is not None and self._used_bytes + own_bytes > self.limit_bytes:
            raise StorageFull(
                f"activationCache.sizeLimit is {_size(self.limit_bytes)}, and these activations take more",
                where=str(self.folder),
                hint="raise activationCache.sizeLimit, or leave it out",
            )

    def flush(self) -> None:
        """Makes all that was put last, also over a power cut, and takes in what others have put. After an error, what
        can be found was kept.
        """
        writer = self._own_writer()
        if writer is None or not writer.waits:
            return
        try:
            with files.storing(self.path):
                writer.flush()
        except BaseException:
            self._writer = None
            writer.close()
            raise
        finally:
            # The own index is read like another's.
            self.refresh()

    def room(self, need_bytes: int, entries: int = 1) -> str:
        """Empty if so many bytes of new states may be kept; else why not."""
        need = need_bytes + entries * OVERHEAD_BYTES
        used = self._size_of_all()
        if self.limit_bytes is not None and used + need > self.limit_bytes:
            sizes = f"{_size(need)} are needed, {_size(used)} are kept already"
            return f"{sizes}, and activationCache.sizeLimit is {_size(self.limit_bytes)}"
        there = next(path for path in (self.folder.absolute(), *self.folder.absolute().parents) if path.is_dir())
        usage = shutil.disk_usage(there)
        reserve = min(RESERVE_BYTES, int(usage.total * RESERVE_SHARE))
        if need + reserve > usage.free:
            sizes = f"{_size(need)} are needed, and {_size(reserve)} must stay free"
            return f"{sizes}, but {_size(usage.free)} are free on the volume"
        return ""

    def _size_of_all(self) -> int:
        """Of the files of all keys."""
        return sum(_file_sizes(self.folder))

    def read_ahead(self, names: Iterable[bytes]) -> None:
        """Asks the kernel, on a thread, to have these in memory soon. Advice: it never waits, fails or answers."""
        self._ahead.ask([place for one in names if (place := self._places.get(one)) is not None])

    def close(self) -> None:
        """Flushes. Views that were given stay good."""
        try:
            self.flush()
        finally:
            self._release()

    def _release(self) -> None:
        self._ahead.stop()
        writer, self._writer = self._own_writer(), None
        if writer is not None:
            writer.close()
        for reader in self._readers.values():
            reader.close()
        for known in (self._readers, self._places, self._spare, self._checked):
            known.clear()

    def drop(self) -> None:
        """Deletes this key's states. Other processes that use them go on with what they have open."""
        self._release()
        _remove(self.path)

    def drop_others(self) -> None:
        """Deletes the states of all other keys, and what a killed deletion left."""
        if not self.folder.is_dir():
            return
        for path in list(self.folder.iterdir()):
            left = path.name.startswith(files.TEMPORARY_PREFIX)
            if path != self.path and (left or KEY_NAME.fullmatch(path.name)):
                _remove(path)


def _identity(key: Mapping[str, str], width: int, dtype: torch.dtype) -> dict[str, Any]:
    """All that makes one shelf's bytes mean something else than another's."""
    own = {"format": FORMAT, "width": str(width), "dtype": str(dtype).removeprefix("torch."), "order": sys.byteorder}
    return {"key": dict(key), "states": own}


def _write_key(folder: int, data: bytes) -> None:
    """The key in clear, for people; two processes may write it at once, and write the same."""
    temporary = f"{files.TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    with os.fdopen(os.open(temporary, shard.NEW, shard.MODE, dir_fd=folder), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, KEY, src_dir_fd=folder, dst_dir_fd=folder)


def _file_sizes(folder: Path) -> Iterator[int]:
    """Of all plain files in the folder's folders. What is deleted while we look has no size."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    yield from _file_sizes(Path(entry.path))
                elif entry.is_file(follow_symlinks=False):
                    yield entry.stat(follow_symlinks=False).st_size


def _remove(path: Path) -> None:
    """Another process may be deleting it too."""
    with contextlib.suppress(FileNotFoundError):
        files.remove_tree(path)


def _size(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
