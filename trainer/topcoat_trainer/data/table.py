"""Rows of tables: CSV and TSV with a header, and Parquet. A wrong separator is said, never guessed."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, BinaryIO

from topcoat_trainer.data.problem import Kind, RowError, column_names
from topcoat_trainer.data.row import Row
from topcoat_trainer.data.stream import Limits, Line
from topcoat_trainer.errors import DataError

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
BATCH_ROWS = 256


class _Lines:
    """Decoded lines for Python's csv module; remembers where it is. A line that cannot be read ends the file."""

    def __init__(self, lines: Iterator[Line], name: str) -> None:
        self._lines = lines
        self._name = name
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        if line.error is not None:
            # Quotes may span lines, so what follows a broken line cannot be read for sure.
            raise DataError(f"row {line.number}: {line.error.message}", where=self._name, hint=line.error.hint)
        return line.text + "\n"


def separated(lines: Iterator[Line], name: str, separator: str, limits: Limits) -> Iterator[Row]:
    """Rows of a CSV or TSV file. A row's number is the line on which it ends; the header is line 1."""
    source = _Lines(lines, name)
    csv.field_size_limit(limits.row_bytes)
    reader = csv.reader(source, delimiter=separator, strict=True)
    header: list[str] | None = None
    while True:
        start = source.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise _quoting(name, start, error) from None
        if not fields:
            continue
        if header is None:
            header = _header(fields, name, separator)
        else:
            yield _row(header, fields, start, limits)


def _quoting(name: str, start: int, error: csv.Error) -> DataError:
    if "field larger" in str(error):
        return DataError(
            f"row {start}: one field is larger than a row may be; a quote that never closes does that",
            where=name,
            hint="close the quote, and double quotes that are part of the text",
        )
    return DataError(
        f"row {start}: the quotes do not match",
        where=name,
        hint='quote whole fields and double each quote within them ("")',
    )


def _header(fields: list[str], name: str, separator: str) -> list[str]:
    names = [field.strip() for field in fields]
    if len(names) == 1:
        other = next((sign for sign in SEPARATORS if sign != separator and sign in names[0]), None)
        if other is not None:
            right = "name the file .tsv" if other == "\t" else f"save it with the {SEPARATORS[separator]} as separator"
            raise DataError(
                f"row 1: the header has one column; its separator seems to be the {SEPARATORS[other]}, "
                f"not the {SEPARATORS[separator]}",
                where=name,
                hint=right,
            )
    if any(not column for column in names):
        raise DataError("row 1: the header has a column without a name", where=name, hint="name every column")
    if len(set(names)) != len(names):
        raise DataError("row 1: the header names a column twice", where=name, hint="give each column its own name")
    return names


def _row(header: list[str], fields: list[str], number: int, limits: Limits) -> Row:
    if len(fields) != len(header):
        reason = f"{len(fields)} fields where the header has {len(header)}"
        return Row(number, problem=RowError(Kind.COLUMN_COUNT, reason).problem(number))
    if sum(map(len, fields)) > limits.row_bytes:
        reason = f"the row has more than {limits.row_bytes:,} characters"
        return Row(number, problem=RowError(Kind.TOO_LARGE, reason).problem(number))
    return Row(number, dict(zip(header, fields, strict=True)))


def parquet(file: BinaryIO, name: str, limits: Limits) -> Iterator[Row]:
    """Rows of a Parquet file, a batch of a column group at a time."""
    import pyarrow as arrow
    from pyarrow import parquet as arrow_parquet

    number = 0
    try:
        source = arrow_parquet.ParquetFile(file, page_checksum_verification=True)
        _check_columns(source.schema_arrow, name)
        for batch in source.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
            for value in batch.to_pylist():
                number += 1
                yield _parquet_row(number, value, limits)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        place = f"after row {number}" if number else "before its first row"
        text = " (a text is not UTF-8)" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"not a whole Parquet file: it cannot be read {place}{text}",
            where=name,
            hint="copy or write the file again; the end of a Parquet file holds its table of contents",
        ) from None


def _check_columns(schema: Any, name: str) -> None:
    names = [str(column) for column in schema.names]
    if len(set(names)) != len(names):
        raise DataError(
            f"two columns have one name (columns: {column_names(names)})",
            where=name,
            hint="give each column its own name",
        )


def _parquet_row(number: int, value: dict[str, Any], limits: Limits) -> Row:
    size = _characters(value)
    if size > limits.row_bytes:
        reason = f"the row has about {size:,} characters; {limits.row_bytes:,} are allowed"
        return Row(number, problem=RowError(Kind.TOO_LARGE, reason).problem(number))
    return Row(number, value)


def _characters(value: Any) -> int:
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_characters, value.values()))
    if isinstance(value, list):
        return sum(map(_characters, value))
    return 8
