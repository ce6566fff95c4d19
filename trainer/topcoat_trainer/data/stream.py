"""Bytes of a data file as lines: decompressed, capped, decoded, counted. Row-level trouble is handed on, not raised.

A damaged archive or a file that is no text at all is one DataError for the whole file.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

from topcoat_trainer.data.problem import Kind, RowError, shown
from topcoat_trainer.errors import DataError

BOM = b"\xef\xbb\xbf"
# Byte-order marks and first bytes of what people rename to .jsonl.
FOREIGN = (
    (b"\xff\xfe", "the file is UTF-16", "save it as UTF-8 (iconv -f utf-16 -t utf-8)"),
    (b"\xfe\xff", "the file is UTF-16", "save it as UTF-8 (iconv -f utf-16 -t utf-8)"),
    (b"PK\x03\x04", "the file is a ZIP archive or a spreadsheet", "unpack it, or export it as CSV in UTF-8"),
    (b"PAR1", "the file is Parquet under another ending", "rename it to end with .parquet"),
    (b"\x1f\x8b", "the file is gzip under another ending", "rename it to end with .gz after the type, as in .jsonl.gz"),
    (b"%PDF", "the file is a PDF document", "export its text as JSONL or CSV"),
)
BLOCK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one file may ask of memory."""

    row_bytes: int = 1 << 20
    rows: int = 20_000_000


@dataclass(frozen=True, slots=True)
class Line:
    """One line without its newline, or why it cannot be read. `number` counts from 1."""

    number: int
    text: str = ""
    error: RowError | None = None
    raw: str | None = None


class _Gunzip(io.RawIOBase):
    """A gzip stream whose damage is a DataError with the file's name."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._inner = gzip.GzipFile(fileobj=file, mode="rb")
        self._name = name
        self._read_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast("bytearray", buffer))
        try:
            block = self._inner.read(min(len(view), BLOCK_BYTES))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            what = "ends too early" if isinstance(error, EOFError) else "is damaged or is not gzip"
            raise DataError(
                f"the gzip data {what} (after {self._read_bytes:,} decompressed bytes)",
                where=self._name,
                hint="copy or compress the file again; `gzip -t FILE` checks it",
            ) from error
        view[: len(block)] = block
        self._read_bytes += len(block)
        return len(block)


def opened(file: BinaryIO, name: str) -> BinaryIO:
    """The file's plain bytes: unpacked if named .gz, past a byte-order mark. Refuses what is no text."""
    plain: BinaryIO = file
    if name.lower().endswith(".gz"):
        plain = cast("BinaryIO", io.BufferedReader(_Gunzip(file, name), BLOCK_BYTES))
    elif not hasattr(file, "peek"):
        plain = cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", file), BLOCK_BYTES))
    head = cast("io.BufferedReader", plain).peek(8)[:8]
    for mark, what, hint in FOREIGN:
        if head.startswith(mark):
            raise DataError(what, where=name, hint=hint)
    if head.startswith(BOM):
        plain.read(len(BOM))
    return plain


def lines(stream: BinaryIO, limits: Limits, *, show_rows: bool = False) -> Iterator[Line]:
    """Every line, decoded. A line that cannot be read carries its error; the next one is read all the same."""
    offset = 0
    number = 0
    while data := stream.readline(limits.row_bytes + 1):
        number += 1
        start, offset = offset, offset + len(data)
        if len(data) > limits.row_bytes and not data.endswith(b"\n"):
            rest = _skip_line(stream)
            offset += rest
            size = len(data) + rest
            reason = f"the row has {size:,} bytes; {limits.row_bytes:,} are allowed"
            yield Line(number, error=RowError(Kind.TOO_LARGE, reason), raw=_raw(data, show_rows))
            continue
        yield _decoded(Line(number), data, start, show_rows)


def _decoded(line: Line, data: bytes, offset: int, show_rows: bool) -> Line:
    body = data.removesuffix(b"\n").removesuffix(b"\r")
    if b"\0" in body:
        error = RowError(Kind.NUL, f"a NUL character stands at byte {body.index(0)} of the row")
        return Line(line.number, error=error, raw=_raw(body, show_rows))
    try:
        return Line(line.number, body.decode("utf-8"))
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start} of the row (byte {offset + error.start:,} of the file)"
        return Line(line.number, error=RowError(Kind.NOT_UTF8, reason), raw=_raw(body, show_rows))


def _raw(data: bytes, show_rows: bool) -> str | None:
    return shown(data.decode("utf-8", "replace")) if show_rows else None


def _skip_line(stream: BinaryIO) -> int:
    """Reads to the end of an overlong line without keeping it; how many bytes that were."""
    skipped = 0
    while block := stream.readline(BLOCK_BYTES):
        skipped += len(block)
        if block.endswith(b"\n"):
            break
    return skipped
