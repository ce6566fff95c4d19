"""Rows of a JSONL, JSON, CSV, TSV or Parquet file, one at a time, in file order, with bounded memory.

Text files may be gzipped. A byte-order mark and CRLF are accepted. Knows nothing of what a row means (shape.py does).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from topcoat_trainer.data import stream, table
from topcoat_trainer.data.problem import Kind, RowError, shown
from topcoat_trainer.data.row import Row
from topcoat_trainer.data.stream import Limits
from topcoat_trainer.errors import DataError

SURROGATE = re.compile("[\ud800-\udfff]")
# Where a parser's complaint is about structure and holds no text of the row.
PARSER_WORDS = re.compile(r"[A-Za-z' ,:\"-]{1,60}")


@dataclass(frozen=True, slots=True)
class Opening:
    """What a reader of one format is given."""

    file: BinaryIO
    name: str
    limits: Limits
    show_rows: bool


def rows(file: BinaryIO, name: str, limits: Limits | None = None, *, show_rows: bool = False) -> Iterator[Row]:
    """Every row of the file. `name` gives the type by its ending and stands in messages."""
    opening = Opening(file, name, limits or Limits(), show_rows)
    found = 0
    for row in _reader(name)(opening):
        found += 1
        if found > opening.limits.rows:
            raise DataError(f"more than {opening.limits.rows:,} rows", where=name, hint="split the file")
        yield row
    if not found:
        raise DataError(
            "the file has no rows", where=name, hint="put at least one row into it; was it cut or not synced?"
        )


def _reader(name: str) -> Callable[[Opening], Iterator[Row]]:
    """The reader for a file's ending."""
    plain = name.lower().removesuffix(".gz")
    for ending, reader in READERS.items():
        if plain.endswith(ending):
            if ending == ".parquet" and plain != name.lower():
                raise DataError("Parquet is compressed already", where=name, hint="unpack it with gunzip")
            return reader
    raise DataError(
        "the file's ending says nothing of its type",
        where=name,
        hint="name it .jsonl, .json, .csv, .tsv or .parquet (.gz may follow)",
    )


def _json_lines(opening: Opening) -> Iterator[Row]:
    plain = stream.opened(opening.file, opening.name)
    for line in stream.lines(plain, opening.limits, show_rows=opening.show_rows):
        if line.error is not None:
            yield Row(line.number, problem=line.error.problem(line.number, line.raw))
        elif line.text and not line.text.isspace():
            yield _parsed(line.number, line.text, opening.show_rows)


def _parsed(number: int, text: str, show_rows: bool) -> Row:
    try:
        return Row(number, as_object(_loads(text)))
    except RowError as error:
        return Row(number, problem=error.problem(number, shown(text) if show_rows else None))


def _loads(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise RowError(Kind.INVALID_JSON, f"not valid JSON at column {error.colno}: {_complaint(error)}") from None
    except RecursionError:
        raise RowError(Kind.INVALID_JSON, "nested too deeply") from None
    except ValueError:  # an integer with thousands of digits
        raise RowError(Kind.INVALID_JSON, "a number is too long") from None


def _complaint(error: json.JSONDecodeError) -> str:
    return error.msg if PARSER_WORDS.fullmatch(error.msg) else "unexpected character"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise RowError(Kind.DUPLICATE_KEY, "a key stands twice in one object")
    return made


def _refuse_constant(_: str) -> Any:
    raise RowError(Kind.INVALID_JSON, "NaN and Infinity are not JSON")


def as_object(value: Any) -> dict[str, Any]:
    """The row as an object whose strings are all real text."""
    if not isinstance(value, dict):
        raise RowError(Kind.NOT_AN_OBJECT, f"a JSON {_json_type(value)} stands where an object should")
    _check_text(value)
    return value


def _json_type(value: Any) -> str:
    names = {list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _check_text(value: Any) -> None:
    """Refuses what JSON escapes can smuggle past UTF-8: lone surrogates and NUL."""
    if isinstance(value, str):
        if "\0" in value:
            raise RowError(Kind.NUL, "the text holds an escaped NUL character")
        if not value.isascii() and SURROGATE.search(value):
            raise RowError(Kind.LONE_SURROGATE, "the text holds half of a surrogate pair")
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_text(key)
            _check_text(item)
    elif isinstance(value, list):
        for item in value:
            _check_text(item)


class _Array:
    """A JSON array read element by element: no more of the file is in memory than one element and one block."""

    def __init__(self, opening: Opening) -> None:
        self._stream = stream.opened(opening.file, opening.name)
        self._name = opening.name
        self._limit = opening.limits.row_bytes
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._parser = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)
        self._text = ""
        self._at = 0
        self._read_bytes = 0
        self._done = False

    def _more(self) -> bool:
        """Takes in another block; False at the end of the file."""
        if self._done:
            return False
        block = self._stream.read(max(stream.BLOCK_BYTES, len(self._text) - self._at))
        self._done = not block
        try:
            self._text = self._text[self._at :] + self._decode.decode(block, final=self._done)
        except UnicodeDecodeError as error:
            place = f"not UTF-8 near byte {self._read_bytes + error.start:,} of the file"
            raise self._error(place, "save the file as UTF-8 (iconv -f latin1 -t utf-8)") from None
        self._at = 0
        self._read_bytes += len(block)
        return True

    def _error(self, message: str, hint: str) -> DataError:
        return DataError(message, where=self._name, hint=hint)

    def _next_character(self) -> str:
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if not character.isspace():
                    return character
                self._at += 1
            if not self._more():
                return ""

    def rows(self, show_rows: bool) -> Iterator[Row]:
        self._start()
        number = 0
        while self._next_character() != "]":
            number += 1
            yield self._row(number, show_rows)
            after = self._next_character()
            if after == ",":
                self._at += 1
                if self._next_character() == "]":
                    raise self._error(f"a comma stands after the last row ({number})", "remove the comma")
            elif after == "":
                raise self._error(f"the file ends within the array, after row {number}", "copy or export it again")
            elif after != "]":
                raise self._error(f"no comma stands after row {number}", "separate the rows by commas")
        self._at += 1
        if self._next_character():
            raise self._error(f"text stands after the array's end (row {number})", "keep one array per file")

    def _start(self) -> None:
        first = self._next_character()
        if first == "[":
            self._at += 1
        elif first == "{":
            raise self._error(
                "the file starts with an object, not with an array of rows",
                "name it .jsonl if it has one object per line; otherwise write [row, row, ...]",
            )
        elif first:
            raise self._error("the file does not start with '['", "write an array of objects: [row, row, ...]")

    def _row(self, number: int, show_rows: bool) -> Row:
        """Parses the next element, taking in more of the file as long as it may be incomplete."""
        while True:
            if len(self._text) - self._at > 0:
                try:
                    value, end = self._parser.raw_decode(self._text, self._at)
                except json.JSONDecodeError as error:
                    if self._too_large(number) or not self._more():
                        raise self._bad_element(number, error) from None
                    continue
                except RowError as error:
                    raise self._error(f"row {number}: {error.message}", error.hint) from None
                except (RecursionError, ValueError):
                    raise self._error(
                        f"row {number}: nested too deeply, or a number too long", "mend the row"
                    ) from None
                if end < len(self._text) or not self._more():  # a number at a block's end may go on
                    return self._taken(number, value, end, show_rows)
            elif not self._more():
                raise self._error(f"the file ends within the array, before row {number}", "copy or export it again")

    def _taken(self, number: int, value: Any, end: int, show_rows: bool) -> Row:
        text = self._text[self._at : end]
        self._at = end
        raw = shown(text) if show_rows else None
        if len(text) > self._limit or len(text.encode("utf-8", "surrogatepass")) > self._limit:
            error = RowError(Kind.TOO_LARGE, f"the row has more than {self._limit:,} bytes")
            return Row(number, problem=error.problem(number, raw))
        try:
            return Row(number, as_object(value))
        except RowError as error:
            return Row(number, problem=error.problem(number, raw))

    def _too_large(self, number: int) -> bool:
        if len(self._text) - self._at <= 2 * self._limit:
            return False
        raise self._error(
            f"row {number} is not valid JSON, or has more than {self._limit:,} bytes",
            "split the row, or mend its quotes and brackets",
        )

    def _bad_element(self, number: int, error: json.JSONDecodeError) -> DataError:
        cut = "the file ends too early, or " if self._done else ""
        return self._error(
            f"row {number}: {cut}not valid JSON: {_complaint(error)}",
            "write the file with a JSON library, or use JSONL, whose rows are checked one by one",
        )


def _json_array(opening: Opening) -> Iterator[Row]:
    yield from _Array(opening).rows(opening.show_rows)


def _comma_separated(opening: Opening) -> Iterator[Row]:
    plain = stream.opened(opening.file, opening.name)
    source = stream.lines(plain, opening.limits, show_rows=opening.show_rows)
    yield from table.separated(source, opening.name, ",", opening.limits)


def _tab_separated(opening: Opening) -> Iterator[Row]:
    plain = stream.opened(opening.file, opening.name)
    source = stream.lines(plain, opening.limits, show_rows=opening.show_rows)
    yield from table.separated(source, opening.name, "\t", opening.limits)


def _parquet(opening: Opening) -> Iterator[Row]:
    for row in table.parquet(opening.file, opening.name, opening.limits):
        try:
            if row.value is not None:
                as_object(row.value)
        except RowError as error:
            raw = shown(str(row.value)) if opening.show_rows else None
            yield Row(row.number, problem=error.problem(row.number, raw))
        else:
            yield row


READERS: dict[str, Callable[[Opening], Iterator[Row]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_array,
    ".csv": _comma_separated,
    ".tsv": _tab_separated,
    ".parquet": _parquet,
}
