"""Whether a data set may be used as it is: how many rows are bad, and whether its parts fit together.

Each check raises one DataError that names up to five rows, or returns notes for a person. Never shows a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from topcoat_trainer.data import duplicate, problem
from topcoat_trainer.data.problem import Kind, Problem
from topcoat_trainer.errors import DataError
from topcoat_trainer.example import Example

SKEWED_SHARE = 0.8
RARE_ROWS = 5


def check_rows(name: str, problems: Sequence[Problem], rows: int, max_invalid_fraction: float) -> None:
    """Refuses a file with too many bad rows, or with no good one."""
    if len(problems) > rows * max_invalid_fraction or (rows and len(problems) >= rows):
        raise problem.error(name, problems, rows)


def check_apart(name: str, train: Sequence[Example], evaluation: Sequence[Example]) -> None:
    """Refuses an evaluation file that holds training rows: its score would flatter."""
    both = duplicate.shared(train, evaluation)
    if not both:
        return
    named = "; ".join(f"row {row} is row {other} of the training file" for row, other in both[: problem.NAMED_ROWS])
    rest = f"; and {len(both) - problem.NAMED_ROWS:,} more" if len(both) > problem.NAMED_ROWS else ""
    raise DataError(
        f"{len(both):,} of {len(evaluation):,} held-out rows stand in the training set: {named}{rest}",
        where=name,
        hint=problem.FIXES[Kind.HELD_OUT_IN_TRAINING],
    )


def check_labels(name: str, labels: Sequence[str], evaluation: Sequence[Example]) -> None:
    """Refuses held-out labels that no training row has: no model could learn them."""
    known = set(labels)
    bad = [
        Problem(row.row, Kind.UNKNOWN_LABEL, "its label never occurs in training")
        for row in evaluation
        if row.label is not None and row.label not in known
    ]
    if bad:
        raise problem.error(name, bad, len(evaluation))


def notes(train: Sequence[Example], holdout: Sequence[Example], repeats: int) -> list[str]:
    """What a person should know of rows that may be used all the same."""
    return [
        *([f"{repeats:,} rows repeat an earlier row; each is used once"] if repeats else []),
        *_label_notes(train, holdout),
        *_conflicts([*train, *holdout]),
    ]


def _label_notes(train: Sequence[Example], holdout: Sequence[Example]) -> list[str]:
    counts = Counter(row.label for row in train if row.label is not None)
    if not counts:
        return []
    total = sum(counts.values())
    largest = counts.most_common(1)[0][1]
    rare = sum(count < RARE_ROWS for count in counts.values())
    unseen = {row.label for row in holdout if row.label is not None} - set(counts)
    made: list[str] = []
    if len(counts) == 1:
        made.append("all training rows have one label: there is nothing to tell apart")
    elif largest > SKEWED_SHARE * total:
        made.append(f"labels are skewed: one has {largest / total:.0%} of the training rows")
    if rare:
        made.append(f"{rare} of {len(counts)} labels have fewer than {RARE_ROWS} training rows")
    if unseen:
        made.append(f"{len(unseen)} labels occur among the held-out rows only")
    return made


def _conflicts(rows: Sequence[Example]) -> list[str]:
    """One question with two labels: at most one of them is right."""
    answers: dict[str, set[str]] = {}
    for row in rows:
        if row.label is not None:
            answers.setdefault(duplicate.question(row), set()).add(row.label)
    count = sum(len(labels) > 1 for labels in answers.values())
    return [f"{count:,} texts stand there with more than one label"] if count else []
