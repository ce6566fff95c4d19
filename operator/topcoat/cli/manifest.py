"""Reads a manifest: YAML or JSON to a FineTuneJob. What is wrong is said with file, line, column and what to write.

Positions come from YAML's own nodes. Runs nothing; refuses what could be a bomb before it is expanded.
"""

from __future__ import annotations

import difflib
import math
import sys
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic

from topcoat.api import finetunejob, metadata, section
from topcoat.cli import terminal

LIMIT_BYTES = 1 << 20
LIMIT_NODES = 20_000
LIMIT_DEPTH = 64
SHOWN_ERRORS = 8
SHOWN_LETTERS = 60
KIND = "FineTuneJob"
Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the file, counted from 1."""

    line: int
    column: int


@dataclass(slots=True)
class Document:
    """One document of the file: its content, and where each part of it stands."""

    body: Any
    values: dict[Place, Mark]
    keys: dict[Place, Mark]


@dataclass(frozen=True, slots=True)
class Manifest:
    """A FineTuneJob as it was written, and where each part of it stands."""

    job: finetunejob.FineTuneJob
    document: Document
    shown: str
    others: tuple[str, ...] = ()
    """What else the file has: kind and line."""

    @property
    def body(self) -> dict[str, Any]:
        """The object without what only a cluster writes."""
        return {key: value for key, value in self.document.body.items() if key != "status"}

    def where(self, field: str) -> str:
        """The place of a field such as `spec.dataset.train`, or of the longest part of it that is in the file."""
        words = field.replace("[", ".").replace("]", "").split(".")
        parts: list[str | int] = [int(word) if word.isdecimal() else word for word in words]
        for length in range(len(parts), -1, -1):
            mark = self.document.keys.get(tuple(parts[:length])) or self.document.values.get(tuple(parts[:length]))
            if mark is not None:
                return f"{self.shown}:{mark.line}:{mark.column}"
        return self.shown


class _Problem(Exception):
    """What is wrong, and where."""

    def __init__(self, message: str, mark: Mark, hint: str) -> None:
        super().__init__(message)
        self.message, self.mark, self.hint = message, mark, hint


def load(path: Path, name: str | None = None) -> finetunejob.FineTuneJob:
    """The FineTuneJob of a file (`-`: standard input); `name` picks one where the file has several."""
    return read(path, name).job


def read(path: Path, name: str | None = None) -> Manifest:
    """The same with its places in the file."""
    shown = "<stdin>" if str(path) == "-" else str(path)
    try:
        documents = _documents(_text(path, shown))
        picked = _picked(documents, name)
        return Manifest(_object(picked, shown), picked, shown, tuple(_others(documents, picked)))
    except _Problem as problem:
        terminal.fail(problem.message, f"{shown}:{problem.mark.line}:{problem.mark.column}", problem.hint)


def _text(path: Path, shown: str) -> str:
    if str(path) != "-" and not path.is_file():
        near = "it is a folder" if path.is_dir() else "there is no such file"
        terminal.fail(near, shown, "name a manifest; `topcoat init DATA.jsonl` writes one")
    if str(path) == "-":
        data = sys.stdin.buffer.read(LIMIT_BYTES + 1)
    else:
        with path.open("rb") as file:
            data = file.read(LIMIT_BYTES + 1)
    if len(data) > LIMIT_BYTES:
        terminal.fail("the file is larger than 1 MiB", shown, "a manifest holds settings; data belongs in its own file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise _Problem("the file is not UTF-8", Mark(line, column), "save it as UTF-8") from None


def _documents(text: str) -> list[Document]:
    import yaml

    try:
        nodes = [node for node in yaml.compose_all(text, Loader=yaml.SafeLoader) if node is not None]
        return [_Reader().read(node) for node in nodes]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Mark(mark.line + 1, mark.column + 1) if mark else Mark(1, 1)
        said = " ".join(part for part in (error.context, error.problem) if part)
        raise _Problem(f"this is not YAML: {said}", place, "check indentation, quotes and colons there") from None
    except yaml.YAMLError as error:
        said = " ".join(str(error).split())
        raise _Problem(f"this is not YAML: {said}", Mark(1, 1), "save it as plain text in UTF-8") from None
    except RecursionError:
        raise _Problem("the file is nested too deeply", Mark(1, 1), "write it flatter") from None


class _Reader:
    """Turns YAML nodes into what JSON can say, and remembers where each part stands."""

    def __init__(self) -> None:
        self.values: dict[Place, Mark] = {}
        self.keys: dict[Place, Mark] = {}
        self.count = 0

    def read(self, node: Any) -> Document:
        return Document(self._value(node, ()), self.values, self.keys)

    def _value(self, node: Any, place: Place) -> Any:
        mark = _mark(node)
        self.count += 1
        if self.count > LIMIT_NODES or len(place) > LIMIT_DEPTH:
            hint = "write values out instead of repeating them with anchors (&) and aliases (*)"
            raise _Problem("the file grows too large when its aliases are followed", mark, hint)
        self.values[place] = mark
        if node.id == "sequence":
            return [self._value(part, (*place, index)) for index, part in enumerate(node.value)]
        return self._mapping(node, place) if node.id == "mapping" else _scalar(node, mark)

    def _mapping(self, node: Any, place: Place) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key_node, value_node in node.value:
            mark = _mark(key_node)
            key = key_node.value
            if key_node.id != "scalar" or key_node.tag == "tag:yaml.org,2002:merge":
                raise _Problem("this is no field name", mark, "write each field by its name; `<<` is not read")
            if key in made:
                first = self.keys[(*place, key)]
                text = f"field {key!r} stands here twice, first in line {first.line}"
                raise _Problem(text, mark, "keep one of the two")
            self.keys[(*place, key)] = mark
            made[key] = self._value(value_node, (*place, key))
        return made


def _mark(node: Any) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _scalar(node: Any, mark: Mark) -> Any:
    """A value as JSON has it. Times stay text, as Kubernetes reads them."""
    import yaml

    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind in ("str", "timestamp"):
        return node.value
    if kind not in ("null", "bool", "int", "float"):
        raise _Problem(f"the tag {node.tag!r} is not read", mark, "write the plain value")
    try:
        made = yaml.SafeLoader("").construct_object(node)
    except ValueError:
        return node.value
    return node.value if isinstance(made, float) and not math.isfinite(made) else made


def _picked(documents: list[Document], name: str | None) -> Document:
    """The one FineTuneJob that is meant."""
    found = [document for document in documents if isinstance(document.body, dict)]
    jobs = [document for document in found if document.body.get("kind") == KIND]
    if name is not None:
        jobs = [document for document in jobs if _name(document) == name]
    if len(jobs) == 1:
        return jobs[0]
    if jobs:
        places = ", ".join(f"{_name(document)} in line {document.values[()].line}" for document in jobs)
        text = f"the file has {len(jobs)} FineTuneJobs: {places}"
        raise _Problem(text, jobs[1].values[()], "pick one with --name NAME")
    if name is not None:
        raise _Problem(f"the file has no FineTuneJob {name!r}", Mark(1, 1), "leave --name out, or check the name")
    if len(found) == 1 and not isinstance(found[0].body.get("kind"), str):
        return found[0]
    kinds = ", ".join(sorted({str(document.body.get("kind")) for document in found}))
    text = f"the file has no FineTuneJob{f', but {kinds}' if kinds else ': it is empty'}"
    where = found[0].values.get(("kind",), found[0].values[()]) if found else Mark(1, 1)
    raise _Problem(text, where, f"begin with `apiVersion: {metadata.API_VERSION}` and `kind: {KIND}`")


def _others(documents: list[Document], picked: Document) -> Iterator[str]:
    for document in documents:
        if document is not picked and isinstance(document.body, dict):
            yield f"{document.body.get('kind', 'object')} {_name(document)!r} in line {document.values[()].line}"


def _name(document: Document) -> str:
    about = document.body.get("metadata")
    return str(about.get("name", "?")) if isinstance(about, dict) else "?"


def _object(document: Document, shown: str) -> finetunejob.FineTuneJob:
    body = {key: value for key, value in document.body.items() if key != "status"}
    try:
        return finetunejob.FineTuneJob.read(body)
    except pydantic.ValidationError as error:
        found = [_problem(one, document) for one in error.errors(include_url=False, include_input=False)]
    ordered = sorted(_distinct(found), key=lambda problem: (problem.mark.line, problem.mark.column))
    first, *others = ordered
    lines = [f"{shown}:{other.mark.line}:{other.mark.column}: {other.message}" for other in others[: SHOWN_ERRORS - 1]]
    more = len(ordered) - SHOWN_ERRORS
    lines += [f"and {more} more"] if more > 0 else []
    message = "\n       ".join([first.message, *lines])
    raise _Problem(message, first.mark, first.hint)


def _distinct(problems: list[_Problem]) -> list[_Problem]:
    """One complaint per place: a union complains once for each of its members."""
    kept: dict[Mark, _Problem] = {}
    for problem in problems:
        first = kept.setdefault(problem.mark, problem)
        if first is not problem and problem.message not in first.message:
            first.message = f"{first.message}; or: {problem.message.partition(': ')[2] or problem.message}"
    return list(kept.values())


def _problem(error: Any, document: Document) -> _Problem:
    place = _known(error["loc"], document)
    kind, field = error["type"], ".".join(map(str, place))
    hint = f"`topcoat explain {'.'.join(['ftj', *_fields(place)])}` says what it takes"
    if kind == "extra_forbidden":
        known = _names_at(place[:-1])
        near = difflib.get_close_matches(str(place[-1]), known, 1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        above = "`topcoat explain " + ".".join(["ftj", *_fields(place[:-1])]) + "` lists the fields"
        return _Problem(f"unknown field {field!r}{meant}", document.keys[place], above)
    if kind == "missing":
        return _Problem(f"{'.'.join(map(str, error['loc']))} is missing", document.values[place], hint)
    text = error["msg"].removeprefix("Value error, ")
    return _Problem(f"{field or KIND}: {text}{_given(error, place, document)}", document.values[place], hint)


def _given(error: Any, place: Place, document: Document) -> str:
    """The value that stands there, and the word that was probably meant."""
    value = document.body
    for part in place:
        value = value[part]
    if error["type"] == "value_error" or isinstance(value, (dict, list)):
        return ""
    words = [word for word in str(error.get("ctx", {}).get("expected", "")).split("'") if word.isalnum()]
    lowered = {word.lower(): word for word in words if word not in ("or", "and")}
    near = difflib.get_close_matches(str(value).lower(), lowered, 1)
    meant = f"; did you mean {lowered[near[0]]!r}?" if near else ""
    shown = "null" if value is None else repr(value)
    return f", not {shown if len(shown) <= SHOWN_LETTERS else shown[:SHOWN_LETTERS] + '…'}{meant}"


def _known(loc: tuple[str | int, ...], document: Document) -> Place:
    """The longest beginning of pydantic's path that stands in the file (unions add words of their own)."""
    for length in range(len(loc), -1, -1):
        if loc[:length] in document.values:
            return loc[:length]
    return ()


def _fields(place: Place) -> list[str]:
    return [part for part in place if isinstance(part, str)]


def _names_at(place: Place) -> list[str]:
    """Names of the fields that a part of the manifest may have."""
    models: list[type[section.Section]] = [finetunejob.FineTuneJob]
    for part in _fields(place):
        models = [
            inner
            for model in models
            for name, field in model.model_fields.items()
            if (field.alias or name) == part
            for inner in _models_in(field.annotation)
        ]
    return [field.alias or name for model in models for name, field in model.model_fields.items()]


def _models_in(annotation: Any) -> list[type[section.Section]]:
    if isinstance(annotation, type) and issubclass(annotation, section.Section):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models_in(part)]
