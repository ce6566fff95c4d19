"""Files that are either whole or absent: digests, atomic writes, atomic directories, paths that stay beneath a root.

Knows nothing of models or rows; never imports torch. A full disk is said as StorageFull, whoever noticed it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NoReturn

from topcoat_trainer.errors import Corrupt, StorageFull, UserInputError

BLOCK_BYTES = 1 << 20
# EFBIG: a file-size limit is a full disk to whoever has to mend it.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
TEMPORARY_PREFIX = ".tmp-"


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Inside it a full disk, also one noticed by a library that is not Python, becomes StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull("no space left to write this file", where=str(path)) from error
        raise
    except Exception as error:
        if any(f"os error {code})" in str(error) for code in FULL):
            raise StorageFull("no space left to write this file", where=str(path)) from error
        raise


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_of_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def json_bytes(value: Any) -> bytes:
    """One spelling per value, so that equal values have equal digests. NaN is refused: it is not JSON."""
    return (
        whole_letters(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)) + "\n"
    ).encode()


def whole_letters(text: str) -> str:
    """Half a letter (a lone surrogate, from a file's name or a row) as U+FFFD: UTF-8 has no spelling for it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file that is either the old one or the whole new one, whatever happens between."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}-{path.name}")
    with storing(path):
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_directory(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    write_bytes(path, json_bytes(value))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Corrupt("the file is not valid JSON", where=str(path)) from error


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable: a rename without it may be undone by a power cut."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(root: Path) -> None:
    """Makes every file and folder beneath root durable, the leaves first."""
    for folder, _, names in os.walk(root, topdown=False):
        for name in names:
            sync_file(Path(folder, name))
        sync_directory(Path(folder))


def temporary_directory(parent: Path) -> Path:
    """A new, empty directory beside where its content will be published."""
    directory = parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}"
    with storing(directory):
        directory.mkdir(parents=True)
    return directory


def publish(temporary: Path, final: Path) -> None:
    """Makes a finished directory appear under its name, at once and durably. Never overwrites one."""
    with storing(final):
        sync_tree(temporary)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists() or final.is_symlink():
            raise FileExistsError(errno.EEXIST, "already published", str(final))
        temporary.rename(final)
        sync_directory(final.parent)
        if temporary.parent != final.parent:
            sync_directory(temporary.parent)


def remove_tree(directory: Path) -> None:
    """Takes a directory away so that no half of it is ever seen under its name."""
    if directory.is_symlink() or not directory.exists():
        directory.unlink(missing_ok=True)
        return
    doomed = directory.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(4)}")
    directory.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(directory: Path) -> None:
    """Removes what killed writers left in a directory. Only its one owner may call it (see Lock in run.py)."""
    if not directory.is_dir():
        return
    for path in directory.iterdir():
        if path.name.startswith(TEMPORARY_PREFIX):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _parts(relative: str) -> tuple[str, ...]:
    """The steps of a path that only goes down: no root, no `..`, no NUL."""
    parts = relative.split("/")
    if not relative or "\0" in relative or any(part in ("", ".", "..") for part in parts):
        raise UserInputError(
            "the path must be relative and may not hold `..`, `.` or empty steps",
            where=repr(relative[:200]),
            hint="name a file beneath the folder, such as data/train.jsonl",
        )
    return tuple(parts)


def _refuse_link(path: Path) -> NoReturn:
    raise UserInputError(
        "a symbolic link stands in the path, and links are not followed",
        where=str(path),
        hint="put the file itself there instead of a link",
    )


def beneath(root: Path, relative: str) -> Path:
    """The path of `relative` beneath root, refusing every step that is a link. The file need not exist."""
    path = root
    for part in _parts(relative):
        path = path / part
        if path.is_symlink():
            _refuse_link(path)
    return path


def open_beneath(root: Path, relative: str) -> BinaryIO:
    """Opens a file beneath root for reading; the kernel refuses links at every step, so no race can slip one in."""
    parts = _parts(relative)
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in parts[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        # O_NONBLOCK: opening a named pipe must not wait for a writer that never comes.
        handle = os.open(parts[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    except OSError as error:
        path = root / relative
        if error.errno == errno.ELOOP or (error.errno == errno.ENOTDIR and _has_link(root, parts)):
            _refuse_link(path)
        raise
    finally:
        os.close(folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserInputError("not a regular file", where=str(root / relative), hint="name a regular file")
    return os.fdopen(handle, "rb")


def _has_link(root: Path, parts: tuple[str, ...]) -> bool:
    return any(root.joinpath(*parts[: depth + 1]).is_symlink() for depth in range(len(parts)))


def listing(root: Path) -> list[str]:
    """Every file beneath root as a relative POSIX name, sorted. A link or a special file is Corrupt."""
    names: list[str] = []
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode):
                names.append(PurePosixPath(path.relative_to(root)).as_posix())
            elif not stat.S_ISDIR(mode):
                raise Corrupt("a link or special file stands where only plain files may be", where=str(path))
    return sorted(names)
