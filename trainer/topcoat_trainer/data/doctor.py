"""A health report on one data file as JSON: `python -m topcoat_trainer.data.doctor FILE`. Needs no model.

Lists every row that cannot be used, and suggests the manifest's `dataset` section. Shows rows only when asked to.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pydantic

from topcoat.api.dataset import Columns, Format, Holdout
from topcoat.api.exits import Exit
from topcoat_trainer import task
from topcoat_trainer.data import dataset, duplicate, problem, reader, validation
from topcoat_trainer.errors import TrainerError, UserInputError
from topcoat_trainer.source import DataFile, local_file

LISTED_PROBLEMS = 1000
# Columns whose values tie rows together, by their names.
GROUP_NAMES = re.compile(
    r"(^|_|-)(id|group|family|customer|client|patient|user|author|claim|case|ticket|thread|document|doc|session|code|"
    r"policy|account)(_|-|$)|Id$",
    re.IGNORECASE,
)
FEWEST_GROUPS = 10
ROWS_PER_GROUP = 1.5


def main(arguments: list[str] | None = None) -> int:
    """Prints the report; the exit code is 0 if every row can be used."""
    options = _options(arguments)
    try:
        columns = Columns.model_validate(dict(pair.split("=", 1) for pair in options.columns))
        report = examine(
            local_file(options.file),
            dataset.Reading(Format(options.format), columns, options.group_by, show_rows=options.show_rows),
        )
    except (ValueError, pydantic.ValidationError):
        report = refused(
            options.file.name, UserInputError("--columns takes FIELD=NAME", hint="such as --columns text=body")
        )
    except TrainerError as error:
        report = refused(options.file.name, error)
    sys.stdout.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    return int(report["exitCode"])


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="topcoat_trainer.data.doctor", description="Check a data file row by row.")
    parser.add_argument("file", type=Path, metavar="FILE", help="JSONL, JSON, CSV, TSV or Parquet, text files also .gz")
    parser.add_argument("--format", choices=[kind.value for kind in Format], default="Auto", help="shape of the rows")
    parser.add_argument("--columns", action="append", default=[], metavar="FIELD=NAME", help="column of a field")
    parser.add_argument("--group-by", default=None, metavar="COLUMN", help="column that ties rows together")
    parser.add_argument("--show-rows", action="store_true", help="print the text of bad rows (it may be confidential)")
    return parser.parse_args(arguments)


def refused(name: str, error: TrainerError) -> dict[str, Any]:
    """The report on a file that cannot be read at all."""
    return {
        "file": name,
        "exitCode": error.exit_code.value,
        "error": {"where": error.where, "message": error.message, "hint": error.hint},
    }


def examine(file: DataFile, reading: dataset.Reading) -> dict[str, Any]:
    """The report on a file."""
    table = dataset.read(file, reading)
    kept, repeats = duplicate.distinct(table.examples)
    report: dict[str, Any] = {
        "file": file.name,
        "exitCode": (Exit.DATA if table.problems else Exit.DONE).value,
        "format": table.format.value,
        "rows": table.rows,
        "usable": len(table.examples),
        "invalid": len(table.problems),
        "duplicates": len(repeats),
        "problemKinds": dict(Counter(row.kind.value for row in table.problems).most_common()),
        "problems": [_listed(row) for row in table.problems[:LISTED_PROBLEMS]],
        "notes": validation.notes(kept, [], len(repeats)),
    }
    if table.problems:
        worst = problem.error(file.name, table.problems, table.rows)
        report["error"] = {"where": worst.where, "message": worst.message, "hint": worst.hint}
    if kept:
        made = task.task(kept)
        report["task"] = made.kind.value
        report["labels"] = dict(Counter(row.completion.strip() for row in kept)) if made.labels else {}
        report["longestCharacters"] = max(_characters(row) for row in kept)
        report["dataset"] = suggestion(file, reading, table, kept)
    return report


def _characters(row: Any) -> int:
    return len(row.text or "") + sum(len(turn.content) for turn in row.messages)


def _listed(row: problem.Problem) -> dict[str, Any]:
    shown = {"text": row.text} if row.text is not None else {}
    return {"row": row.row, "kind": row.kind.value, "reason": row.reason, "fix": row.fix, **shown}


def suggestion(file: DataFile, reading: dataset.Reading, table: dataset.Table, kept: tuple[Any, ...]) -> dict[str, Any]:
    """A manifest's `dataset` section for this file, but for `train`: what differs from the defaults."""
    made: dict[str, Any] = {"format": table.format.value}
    columns = reading.columns.as_json()
    if columns:
        made["columns"] = columns
    holdout: dict[str, Any] = {}
    group = reading.group_by or _group_column(file, reading)
    if group is not None:
        holdout["groupBy"] = group
    if len(kept) < 2 * Holdout().min_samples:
        holdout["minSamples"] = max(10, len(kept) // 5)
    if holdout:
        made["holdout"] = holdout
    return made


def _group_column(file: DataFile, reading: dataset.Reading) -> str | None:
    """A column that looks as if equal values belong together: named so, and with fewer values than rows."""
    counts: dict[str, set[int]] = {}
    rows = 0
    with file.open() as stream:
        for row in reader.rows(stream, file.name, reading.limits):
            if row.value is not None:
                rows += 1
                _count(counts, row.value.items())
    fits = {
        name: len(values)
        for name, values in counts.items()
        if GROUP_NAMES.search(name) and FEWEST_GROUPS <= len(values) <= rows / ROWS_PER_GROUP
    }
    return max(fits, key=lambda name: (fits[name], name), default=None)


def _count(counts: dict[str, set[int]], items: Iterable[tuple[str, Any]]) -> None:
    for name, value in items:
        if isinstance(value, (str, int)) and len(str(value)) <= 200:
            counts.setdefault(name, set()).add(hash(value))


if __name__ == "__main__":
    sys.exit(main())
