"""What a row means: which of the known shapes it has, and the one form that all of them become (example.Example).

Words of OpenAI, TRL, Alpaca and ShareGPT are known; `dataset.columns` and `dataset.format` win over guesses.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from topcoat.api.dataset import Columns, Format
from topcoat_trainer.data.problem import FIXES, Kind, RowError, column_names
from topcoat_trainer.data.turn import joined_turns, text_of, turns
from topcoat_trainer.errors import DataError
from topcoat_trainer.example import Example, Message

# Usual names of each field, best first.
USUAL: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "conversations", "conversation"),
    "prompt": ("prompt", "question"),
    "completion": ("completion", "answer", "response"),
    "instruction": ("instruction",),
    "input": ("input",),
    "output": ("output", "response"),
    "text": ("text", "sentence", "content", "body", "description"),
    "label": ("label_text", "label_name", "label", "category", "class", "intent", "queue"),
}
# Fields that make a shape, in the order in which they are tried.
NEEDS: dict[Format, tuple[str, ...]] = {
    Format.CHAT: ("messages",),
    Format.INSTRUCTION: ("instruction", "output"),
    Format.PROMPT_COMPLETION: ("prompt", "completion"),
    Format.CLASSIFICATION: ("text", "label"),
    Format.TEXT: ("text",),
}
LOOKED_AT_ROWS = 200
LISTED_LABELS = 50
LABEL_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows of one data set are read: the format, and which column holds which field."""

    format: Format
    columns: Mapping[str, str]
    group_by: str | None = None


def _given(columns: Columns) -> dict[str, str]:
    return {field: name for field in USUAL if (name := getattr(columns, field)) is not None}


def _found(row: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """Which column of this row holds which field."""
    found: dict[str, str] = {}
    for field, usual in USUAL.items():
        names = (given[field],) if field in given else usual
        name = next((name for name in names if row.get(name) is not None), None)
        if name is not None:
            found[field] = name
    return found


def guess(row: Mapping[str, Any], given: Mapping[str, str]) -> Format | None:
    """The shape of one row, if it has a known one."""
    found = _found(row, given)
    fits = [kind for kind, fields in NEEDS.items() if all(field in found for field in fields)]
    # A column that the user named says what is meant: text and label win over a stray `messages` column.
    fits.sort(key=lambda kind: -sum(field in given for field in NEEDS[kind]))
    return fits[0] if fits else None


def detect(rows: Sequence[Mapping[str, Any]], wanted: Format, columns: Columns) -> Format:
    """The shape of a data set: the one asked for, or the one that most of its first rows have."""
    if wanted is not Format.AUTO:
        return wanted
    given = _given(columns)
    counts = Counter(kind for row in rows if (kind := guess(row, given)) is not None)
    if counts:
        return counts.most_common(1)[0][0]
    keys = column_names(rows[0]) if rows else "none"
    raise DataError(
        f"no known shape in the first {len(rows)} rows (columns: {keys})",
        hint=FIXES[Kind.UNKNOWN_SHAPE],
    )


def shape(kind: Format, columns: Columns, group_by: str | None, sample: Iterable[Mapping[str, Any]]) -> Shape:
    """The reading of a data set: for each field the column that most rows of the sample have."""
    given = _given(columns)
    votes: dict[str, Counter[str]] = {}
    for row in sample:
        if kind is Format.TEXT or guess(row, given) is kind:
            for field, name in _found(row, given).items():
                votes.setdefault(field, Counter())[name] += 1
    chosen = {field: count.most_common(1)[0][0] for field, count in votes.items()}
    usual = {field: names[0] for field, names in USUAL.items()}
    return Shape(kind, {**usual, **chosen, **given}, group_by)


def example(number: int, row: Mapping[str, Any], form: Shape) -> Example:
    """The row in the one form; RowError says why it has none."""
    _check_fields(row, form)
    made = _MAKERS[form.format](row, form)
    group = _group(row, form.group_by)
    return replace(made, row=number, group=group, digest=made.digest or digest(made))


def _check_fields(row: Mapping[str, Any], form: Shape) -> None:
    missing = [form.columns[field] for field in NEEDS[form.format] if row.get(form.columns[field]) is None]
    if not missing:
        return
    other = guess(row, {})
    if other is not None and other is not form.format and other is not Format.TEXT:
        raise RowError(Kind.MIXED_SHAPES, f"has the shape {other.value} where the data set has {form.format.value}")
    names = column_names(missing)
    raise RowError(Kind.MISSING_FIELD, f"the field {names} is missing or null (shape {form.format.value})")


def _group(row: Mapping[str, Any], column: str | None) -> str | None:
    if column is None:
        return None
    value = row.get(column)
    if value is None or isinstance(value, (dict, list)) or not str(value).strip():
        raise RowError(
            Kind.GROUP_MISSING, f"the group column {column_names([column])} is missing, empty or no plain value"
        )
    return str(value).strip()


def _string(row: Mapping[str, Any], form: Shape, field: str, *, empty: bool = False) -> str:
    name = form.columns[field]
    value = text_of(row.get(name), name)
    if not empty and not value.strip():
        raise RowError(Kind.EMPTY_TURN, f"the field {column_names([name])} is empty")
    return value


def _chat(row: Mapping[str, Any], form: Shape) -> Example:
    for key in ("tools", "functions"):
        if row.get(key):
            raise RowError(Kind.TOOL_CALL, f"the row has {key}; tool calls cannot be trained yet")
    return Example(0, turns(row[form.columns["messages"]], form.columns["messages"]))


def _prompt_completion(row: Mapping[str, Any], form: Shape) -> Example:
    prompt, completion = (row[form.columns[field]] for field in ("prompt", "completion"))
    if isinstance(prompt, list) and isinstance(completion, list):
        return Example(0, joined_turns(prompt, completion))
    if isinstance(prompt, list) or isinstance(completion, list):
        raise RowError(Kind.WRONG_TYPE, "prompt and completion must both be text, or both be lists of turns")
    question, answer = _string(row, form, "prompt"), _string(row, form, "completion")
    return Example(0, (Message("user", question), Message("assistant", answer, trained=True)), raw_prompt=True)


def _instruction(row: Mapping[str, Any], form: Shape) -> Example:
    question = _string(row, form, "instruction")
    if row.get(form.columns["input"]) is not None:
        context = _string(row, form, "input", empty=True)
        question = f"{question}\n\n{context}" if context.strip() else question
    messages = [Message("user", question), Message("assistant", _string(row, form, "output"), trained=True)]
    system = row.get("system")
    if isinstance(system, str) and system.strip():
        messages.insert(0, Message("system", system))
    return Example(0, tuple(messages))


def _text(row: Mapping[str, Any], form: Shape) -> Example:
    return Example(0, text=_string(row, form, "text"))


def _classification(row: Mapping[str, Any], form: Shape) -> Example:
    text = _string(row, form, "text")
    label = _label(row[form.columns["label"]], form.columns["label"])
    messages = (Message("user", text), Message("assistant", label, trained=True))
    # Digest of text and label alone: a label seen for the first time changes the system message of every row.
    return Example(0, messages, label=label, digest=_sha256(["classification", text, label]))


def _label(value: Any, name: str) -> str:
    if isinstance(value, bool):
        label = "true" if value else "false"
    elif isinstance(value, (str, int)):
        label = str(value).strip()
    else:
        raise RowError(Kind.WRONG_TYPE, f"the label {column_names([name])} must be text or a whole number")
    if not label:
        raise RowError(Kind.EMPTY_TURN, f"the label {column_names([name])} is empty")
    if len(label) > LABEL_LIMIT or "\n" in label:
        raise RowError(
            Kind.WRONG_TYPE, f"the label {column_names([name])} is no label: over {LABEL_LIMIT} characters or lines"
        )
    return label


_MAKERS = {
    Format.CHAT: _chat,
    Format.PROMPT_COMPLETION: _prompt_completion,
    Format.INSTRUCTION: _instruction,
    Format.TEXT: _text,
    Format.CLASSIFICATION: _classification,
}


def labels_of(examples: Iterable[Example]) -> tuple[str, ...]:
    """Distinct labels, sorted, so that the order of rows changes nothing."""
    return tuple(sorted({row.label for row in examples if row.label is not None}))


def system_prompt(labels: Sequence[str]) -> str | None:
    """What classification rows are told first: the labels, where they can be listed."""
    if not 0 < len(labels) <= LISTED_LABELS:
        return None
    return f"Answer with exactly one of: {', '.join(labels)}."


def instructed(examples: Iterable[Example], prompt: str | None) -> tuple[Example, ...]:
    """Classification rows with the system message in front; other rows as they are."""
    if prompt is None:
        return tuple(examples)
    first = Message("system", prompt)
    return tuple(row if row.label is None else replace(row, messages=(first, *row.messages)) for row in examples)


def digest(row: Example) -> str:
    """SHA-256 of what a row says, whatever file, line or shape it came from."""
    said = [[message.role, message.content, message.trained] for message in row.messages]
    return _sha256([said, row.text, row.label, row.raw_prompt])


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()).hexdigest()
