"""Objects on standard output: table, wide, json, yaml, name. The columns are those that `kubectl get` shows.

Only the table forms end with a next step: other forms are for programs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from topcoat.api import crd, metadata, status
from topcoat.cli import option, terminal
from topcoat.plan import shown

Json = dict[str, Any]
PHASE_STYLES = {"Ready": "green", "Failed": "red", "Rejected": "yellow", "AwaitingApproval": "yellow"}


def data(body: Any, form: option.Form) -> None:
    """Anything as JSON or YAML."""
    if form is option.Form.YAML:
        import yaml

        terminal.say(yaml.safe_dump(body, sort_keys=False, allow_unicode=True).rstrip())
    else:
        terminal.say(json.dumps(body, indent=2, ensure_ascii=False))


def objects(found: Sequence[Json], form: option.Form, *, one: bool = False) -> None:
    """Objects of one kind in the form that was asked for. `one`: they were asked for by name."""
    if form is option.Form.NAME:
        for body in found:
            terminal.say(f"{body['kind'].lower()}.{metadata.GROUP}/{body['metadata']['name']}")
    elif form in (option.Form.JSON, option.Form.YAML):
        data(found[0] if one else {"apiVersion": "v1", "kind": "List", "items": list(found)}, form)
    else:
        _object_table(found, wide=form is option.Form.WIDE)


def _object_table(found: Sequence[Json], *, wide: bool) -> None:
    kinds = {kind.model.__name__: kind for kind in crd.KINDS}
    columns = [column for column in kinds[found[0]["kind"]].columns if wide or not column.priority]
    rows = [[body["metadata"]["name"], *(_cell(column, body) for column in columns)] for body in found]
    table(["Name", *(column.name for column in columns)], rows)


def _cell(column: crd.Column, body: Json) -> str:
    value = _at(column.path, body)
    if value is None:
        return ""
    return age(str(value)) if column.type == "date" else str(value)


def _at(path: str, body: Any) -> Any:
    """What a column's JSONPath finds: fields, and one `[?(@.field=='value')]` filter."""
    for word in path.strip(".").replace("[?(@.", ".?").replace("=='", "=").replace("')]", "").split("."):
        if body is None:
            return None
        if word.startswith("?"):
            field, _, wanted = word[1:].partition("=")
            body = next((part for part in body if part.get(field) == wanted), None)
        else:
            body = body.get(word)
    return body


def age(moment: str) -> str:
    """How long ago, as kubectl says it."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return "<unknown>"
    seconds = int((datetime.now(UTC) - (then if then.tzinfo else then.replace(tzinfo=UTC))).total_seconds())
    for unit, letter in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * unit:
            return f"{seconds // unit}{letter}"
    return f"{max(0, seconds)}s"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], indent: str = "") -> None:
    """Columns as wide as their widest cell, heads in capitals, the phase in its colour."""
    lines = [[terminal.clean(str(cell)).replace("\n", " ") for cell in row] for row in rows]
    titles = [title.upper() for title in head]
    widths = [max(len(cell) for cell in column) for column in zip(titles, *lines, strict=True)]
    terminal.say(indent + "   ".join(t.ljust(w) for t, w in zip(titles, widths, strict=True)).rstrip())
    for line in lines:
        padded = [cell.ljust(w) for cell, w in zip(line, widths, strict=True)]
        painted = [_painted(cell, text) for cell, text in zip(line, padded, strict=True)]
        terminal.say(indent + "   ".join(painted).rstrip())


def _painted(word: str, text: str) -> str:
    return terminal.paint(text, PHASE_STYLES[word]) if word in PHASE_STYLES else text


def facts(found: dict[str, str], indent: str = "  ") -> None:
    """Names and values, one a line; what is empty is left out."""
    wide = max((len(name) for name, value in found.items() if value), default=0)
    for name, value in found.items():
        if value:
            terminal.say(f"{indent}{terminal.paint(name.ljust(wide), 'dim')}  {terminal.clean(value)}")


def needs(found: status.EstimateStatus) -> dict[str, str]:
    """What a run will need, as facts: memory, disk, time with its parts, GPU hours. The unknown is called unknown."""
    parts = ", ".join(f"{name.lower()} {words}" for name, words in found.stages.items())
    known = found.duration_seconds is not None
    whole = f"about {shown.duration(found.duration_seconds or 0)}" if known else "unknown"
    return {
        "Memory": f"about {found.memory}" if found.memory else "unknown",
        "GPU memory": f"about {found.gpu_memory} on each" if found.gpu_memory else "",
        "Disk": f"about {found.disk}" if found.disk else "",
        "Time": f"{whole}: {parts}" if parts else whole,
        "Operations": found.operations,
        "GPU hours": found.gpu_hours,
        "Device": found.device,
    }
