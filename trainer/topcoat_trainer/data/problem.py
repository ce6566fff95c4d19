"""What can be wrong with a row: one table of kinds with the way to mend each, and one message for many rows.

A reason never quotes a row: it names places and counts. `text` is filled only for who asked to see rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from topcoat_trainer.errors import DataError

NAMED_ROWS = 5
MESSAGE_LIMIT = 900
SHOWN_TEXT_LIMIT = 2000
SHOWN_COLUMNS = 8
# A key is shown only if it looks like a column's name: a CSV without a header has a row's text in its place.
COLUMN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,29}")


class Kind(StrEnum):
    """Kinds of trouble, as the report spells them."""

    INVALID_JSON = "InvalidJSON"
    NOT_AN_OBJECT = "NotAnObject"
    DUPLICATE_KEY = "DuplicateKey"
    TOO_LARGE = "TooLarge"
    NUL = "NulCharacter"
    LONE_SURROGATE = "LoneSurrogate"
    NOT_UTF8 = "NotUTF8"
    COLUMN_COUNT = "ColumnCount"
    UNKNOWN_SHAPE = "UnknownShape"
    MIXED_SHAPES = "MixedShapes"
    MISSING_FIELD = "MissingField"
    WRONG_TYPE = "WrongType"
    EMPTY_TURN = "EmptyTurn"
    UNKNOWN_ROLE = "UnknownRole"
    TOOL_CALL = "ToolCall"
    NOT_TEXT = "NotText"
    NO_USER_TURN = "NoUserTurn"
    NO_ASSISTANT_TURN = "NoAssistantTurn"
    NO_ANSWER = "NoAnswer"
    BAD_WEIGHT = "BadWeight"
    ALL_MASKED = "AllMasked"
    SYSTEM_NOT_FIRST = "SystemNotFirst"
    GROUP_MISSING = "GroupMissing"
    CONTROL_TOKEN = "ControlToken"  # noqa: S105 (no password: the name of a kind)
    TEMPLATE_REFUSED = "TemplateRefused"
    TOO_LONG = "TooLong"
    HELD_OUT_IN_TRAINING = "HeldOutInTraining"
    UNKNOWN_LABEL = "UnknownLabel"


FIXES: dict[Kind, str] = {
    Kind.INVALID_JSON: "write each row as one JSON object on one line (json.dumps does)",
    Kind.NOT_AN_OBJECT: 'write each row as an object, such as {"prompt": "...", "completion": "..."}',
    Kind.DUPLICATE_KEY: "give each key once per object",
    Kind.TOO_LARGE: "split the row or remove what is not text; a row may have 1 MiB",
    Kind.NUL: "remove the NUL characters (tr -d '\\000' does for a whole file)",
    Kind.LONE_SURROGATE: "write the text as UTF-8; half of a surrogate pair is no character",
    Kind.NOT_UTF8: "save the file as UTF-8 (iconv -f latin1 -t utf-8, or `CSV UTF-8` in a spreadsheet)",
    Kind.COLUMN_COUNT: "give each row as many fields as the header, and quote fields that hold separators or newlines",
    Kind.UNKNOWN_SHAPE: "use messages, prompt and completion, instruction and output, text and label, or text; "
    "or name your columns in dataset.columns (a CSV starts with a header)",
    Kind.MIXED_SHAPES: "give all rows of a file one shape, or set dataset.format to the one that is meant",
    Kind.MISSING_FIELD: "fill in the field, or name the right column in dataset.columns",
    Kind.WRONG_TYPE: "give the field the type that the message names",
    Kind.EMPTY_TURN: "fill in the text or remove the row",
    Kind.UNKNOWN_ROLE: "use the roles system, user and assistant",
    Kind.TOOL_CALL: "remove rows with tools or functions; they cannot be trained yet",
    Kind.NOT_TEXT: "keep text only: images, audio, files and separate reasoning cannot be trained",
    Kind.NO_USER_TURN: "put a user turn before the answer",
    Kind.NO_ASSISTANT_TURN: "end the row with the assistant turn that is to be learnt",
    Kind.NO_ANSWER: "end the row with an assistant turn, or cut the turns after the last one",
    Kind.BAD_WEIGHT: "set weight to 0 (not learnt) or 1 (learnt)",
    Kind.ALL_MASKED: "give at least one assistant turn weight 1, or remove the row",
    Kind.SYSTEM_NOT_FIRST: "put the one system turn first",
    Kind.GROUP_MISSING: "fill in the column of dataset.holdout.groupBy in every row",
    Kind.CONTROL_TOKEN: "remove the base model's control tokens from the text; the chat template writes them",
    Kind.TEMPLATE_REFUSED: "give the row the order of turns that the base model's chat template takes "
    "(system at most once and first, then user and assistant in turn)",
    Kind.TOO_LONG: "raise training.maxSequenceLength, shorten the row, or set dataset.validation.onTooLong to "
    "Truncate or Drop",
    Kind.HELD_OUT_IN_TRAINING: "remove these rows from the evaluation file or from the training file",
    Kind.UNKNOWN_LABEL: "add training rows of that label, or correct the label",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One row that cannot be used. Row 0 is the file itself."""

    row: int
    kind: Kind
    reason: str
    text: str | None = None

    @property
    def fix(self) -> str:
        return FIXES[self.kind]


class RowError(DataError):
    """Raised inside the check of one row; becomes a Problem, never leaves the data room."""

    def __init__(self, kind: Kind, reason: str, *, row: int = 0) -> None:
        super().__init__(reason, where=f"row {row}" if row else "", hint=FIXES[kind])
        self.kind = kind
        self.row = row

    def problem(self, row: int = 0, text: str | None = None) -> Problem:
        return Problem(row or self.row, self.kind, self.message, text)


def shown(text: str) -> str:
    """A row's text for who asked to see it: capped, and safe to print."""
    cut = text[:SHOWN_TEXT_LIMIT]
    return cut.encode("utf-8", "replace").decode("utf-8") + ("…" if len(text) > SHOWN_TEXT_LIMIT else "")


def column_names(keys: Iterable[object]) -> str:
    """Keys of a row, as far as they look like names of columns."""
    names = [str(key) for key in keys]
    good = [name for name in names if COLUMN_NAME.fullmatch(name)]
    odd = len(names) - len(good)
    parts = [*good[:SHOWN_COLUMNS], *([f"{len(good) - SHOWN_COLUMNS} more"] if len(good) > SHOWN_COLUMNS else [])]
    return ", ".join([*parts, *([f"{odd} that do not look like names of columns"] if odd else [])]) or "none"


def summary(problems: Sequence[Problem]) -> str:
    """The first rows by number and reason, the rest by count, within one message's length."""
    ordered = sorted(problems, key=lambda problem: problem.row)
    parts: list[str] = []
    for problem in ordered[:NAMED_ROWS]:
        part = f"row {problem.row}: {problem.reason}"
        if parts and sum(map(len, parts)) + len(part) > MESSAGE_LIMIT:
            break
        parts.append(part[:MESSAGE_LIMIT])
    rest = len(ordered) - len(parts)
    return "; ".join(parts) + (f"; and {rest:,} more" if rest else "")


def error(where: str, problems: Sequence[Problem], rows: int) -> DataError:
    """One error for all rows that cannot be used."""
    kinds = list(dict.fromkeys(problem.kind for problem in sorted(problems, key=lambda problem: problem.row)))
    hint = "; ".join(FIXES[kind] for kind in kinds[:2])
    verb = "row" if rows == 1 else "rows"
    return DataError(
        f"{len(problems):,} of {rows:,} {verb} cannot be used: {summary(problems)}", where=where, hint=hint
    )
