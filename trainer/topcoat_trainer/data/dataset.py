"""A data set from its files to token rows on both sides of the split. Prepare and run use this same code.

Order: read and check every row, drop repeats, render, set rows aside. Deterministic; never imports torch.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from topcoat.api.dataset import Columns, Dataset, Format
from topcoat.api.report import DataCard
from topcoat_trainer import beginning
from topcoat_trainer import split as split_room
from topcoat_trainer import task as task_room
from topcoat_trainer.data import duplicate, problem, reader, shape, validation
from topcoat_trainer.data.problem import Problem, RowError
from topcoat_trainer.data.row import Row
from topcoat_trainer.data.stream import Limits
from topcoat_trainer.errors import DataError
from topcoat_trainer.example import Example, TokenRow
from topcoat_trainer.render import Renderer
from topcoat_trainer.source import DataFile


@dataclass(frozen=True, slots=True)
class Reading:
    """How a file is read."""

    format: Format = Format.AUTO
    columns: Columns = field(default_factory=Columns)
    group_by: str | None = None
    limits: Limits = field(default_factory=Limits)
    show_rows: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """What one file holds: usable rows in file order, and the others with the reason."""

    name: str
    format: Format
    rows: int
    examples: tuple[Example, ...]
    problems: tuple[Problem, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return shape.labels_of(self.examples)


@dataclass(frozen=True, slots=True)
class DataFiles:
    """The files of one job. `guards` by their names."""

    train: DataFile
    evaluation: DataFile | None = None
    guards: Mapping[str, DataFile] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Assembled:
    """Rows to learn from, rows to be judged on, rows of the guards, and the facts about them."""

    train: tuple[TokenRow, ...]
    holdout: tuple[TokenRow, ...]
    guards: Mapping[str, tuple[TokenRow, ...]]
    task: task_room.Task
    card: DataCard


@dataclass(frozen=True, slots=True)
class _Part:
    """One file's rows, distinct and rendered."""

    table: Table
    rows: tuple[TokenRow, ...]
    repeats: int
    truncated: int
    dropped: int

    @property
    def examples(self) -> tuple[Example, ...]:
        return tuple(row.example for row in self.rows)


def read(file: DataFile, reading: Reading) -> Table:
    """Reads a file row by row. Raises only for trouble of the whole file; rows' trouble is in `problems`."""
    with file.open() as stream:
        rows = reader.rows(stream, file.name, reading.limits, show_rows=reading.show_rows)
        head = list(itertools.islice(rows, shape.LOOKED_AT_ROWS))
        sample = [row.value for row in head if row.value is not None]
        if not sample:
            bad = [row.problem for row in head if row.problem is not None]
            raise problem.error(file.name, bad, len(bad))
        try:
            kind = shape.detect(sample, reading.format, reading.columns)
        except DataError as error:
            raise DataError(error.message, where=file.name, hint=error.hint) from None
        form = shape.shape(kind, reading.columns, reading.group_by, sample)
        return _table(file.name, itertools.chain(head, rows), form, reading.show_rows)


def _table(name: str, rows: Iterator[Row], form: shape.Shape, show_rows: bool) -> Table:
    examples: list[Example] = []
    problems: list[Problem] = []
    count = 0
    for row in rows:
        count += 1
        if row.value is None:
            problems += [row.problem] if row.problem else []
            continue
        try:
            examples.append(shape.example(row.number, row.value, form))
        except RowError as error:
            problems.append(error.problem(row.number, problem.shown(str(row.value)) if show_rows else None))
    return Table(name, form.format, count, tuple(examples), tuple(problems))


def assemble(files: DataFiles, spec: Dataset, renderer: Renderer) -> Assembled:
    """The whole data set, or one DataError that names file, rows, reason and fix."""
    invalid = float(spec.validation.max_invalid_fraction)
    group_by = spec.holdout.group_by
    reading = Reading(spec.format, spec.columns, group_by if files.evaluation is None else None)
    table = read(files.train, reading)
    validation.check_rows(table.name, table.problems, table.rows, invalid)
    prompt = shape.system_prompt(table.labels)
    train = _part(table, renderer, prompt, invalid)
    if files.evaluation is None:
        parts = split_room.split(train.examples, spec.holdout)
    else:
        other = read(files.evaluation, replace(reading, format=table.format, group_by=group_by))
        validation.check_rows(other.name, other.problems, other.rows, invalid)
        validation.check_apart(other.name, train.table.examples, other.examples)
        validation.check_labels(other.name, table.labels, other.examples)
        own = _part(other, renderer, prompt, invalid)
        parts = _own_split(train, own)
        train = replace(train, rows=train.rows + own.rows, repeats=train.repeats + own.repeats)
        train = replace(train, truncated=train.truncated + own.truncated, dropped=train.dropped + own.dropped)
    guards = {name: _guard(file, spec, renderer) for name, file in files.guards.items()}
    return _assembled(train, parts, prompt, guards)


def _part(table: Table, renderer: Renderer, prompt: str | None, max_invalid_fraction: float) -> _Part:
    kept, repeats = duplicate.distinct(shape.instructed(table.examples, prompt))
    made = renderer.rows(kept)
    problems = [*table.problems, *made.problems]
    validation.check_rows(table.name, problems, table.rows, max_invalid_fraction)
    if not made.rows:
        raise DataError(
            f"all {table.rows:,} rows are too long and were left out",
            where=table.name,
            hint="raise training.maxSequenceLength",
        )
    whole = replace(table, problems=tuple(problems))
    return _Part(whole, made.rows, len(repeats), made.truncated, made.dropped)


def _own_split(train: _Part, own: _Part) -> split_room.Split:
    """The user's own held-out file as a split of both files' rows, one after the other."""
    first, last = len(train.rows), len(train.rows) + len(own.rows)
    return split_room.Split(
        train=tuple(range(first)),
        holdout=tuple(range(first, last)),
        unused=(),
        groups=len({row.group or row.digest for row in own.examples}),
        rule=f"{len(own.rows):,} rows of the job's own evaluation file",
        digest=split_room.holdout_digest(own.examples),
    )


def _guard(file: DataFile, spec: Dataset, renderer: Renderer) -> tuple[TokenRow, ...]:
    """Rows of a guard: another task, so its shape is found on its own."""
    table = read(file, Reading())
    invalid = float(spec.validation.max_invalid_fraction)
    validation.check_rows(table.name, table.problems, table.rows, invalid)
    return _part(table, renderer, shape.system_prompt(table.labels), invalid).rows


def _assembled(
    part: _Part, parts: split_room.Split, prompt: str | None, guards: Mapping[str, tuple[TokenRow, ...]]
) -> Assembled:
    train = tuple(part.rows[index] for index in parts.train)
    holdout = tuple(part.rows[index] for index in parts.holdout)
    learnt = [row.example for row in train]
    judged = [row.example for row in holdout]
    task = task_room.task(learnt)
    near = duplicate.near(learnt, judged)
    card = DataCard(
        digest="",
        format=part.table.format.value,
        task=task.kind,
        rows=part.table.rows,
        invalid=len(part.table.problems),
        duplicates=part.repeats,
        near_duplicates=len(near),
        truncated=part.truncated,
        dropped=part.dropped,
        train_samples=len(train),
        holdout_samples=len(holdout),
        holdout_digest=parts.digest,
        groups=parts.groups,
        split_rule=parts.rule,
        tokens=sum(len(row.ids) for row in train),
        trained_tokens=sum(row.trained_tokens for row in train),
        longest_tokens=max(len(row.ids) for row in part.rows),
        shared_tokens=beginning.shared_length([row.ids for row in train]),
        holdout_tokens=sum(len(row.ids) for row in holdout),
        holdout_prompt_tokens=sum(row.prompt_length for row in holdout),
        longest_answer_tokens=max((len(row.ids) - row.prompt_length for row in holdout), default=0),
        guard_tokens=sum(len(row.ids) for rows in guards.values() for row in rows),
        labels=_counted(learnt, task),
        system_prompt=prompt or _shared_system(learnt),
        notes=[*validation.notes(learnt, judged, part.repeats), *_near_notes(near, holdout), *_length_notes(part)],
    )
    return Assembled(train, holdout, guards, task, card)


def _counted(rows: Sequence[Example], task: task_room.Task) -> dict[str, int]:
    counts = Counter(row.completion.strip() for row in rows) if task.labels else Counter()
    return {label: counts[label] for label in task.labels}


def _shared_system(rows: Sequence[Example]) -> str | None:
    """The system message, where all rows share one."""
    first = {row.messages[0].content if row.messages and row.messages[0].role == "system" else None for row in rows}
    return first.pop() if len(first) == 1 else None


def _near_notes(near: Sequence[tuple[int, int]], holdout: Sequence[TokenRow]) -> list[str]:
    if not near:
        return []
    count = f"{len(near):,} of {len(holdout):,} held-out rows are very like a training row"
    first = f"(row {near[0][0]} and row {near[0][1]})"
    return [f"{count} {first}: scores may flatter; dataset.holdout.groupBy keeps such rows together"]


def _length_notes(part: _Part) -> list[str]:
    made: list[str] = []
    if part.truncated:
        made.append(f"{part.truncated / len(part.rows):.1%} of the rows were cut to training.maxSequenceLength")
    if part.dropped:
        made.append(f"{part.dropped:,} rows were left out as too long")
    return made
