"""Spells the chart's values as values.yaml, values.schema.json and the tables of its pages. Pure: returns text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import chart_values
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Json = dict[str, Any]
NOTE = "Generated from tools/chart_values.py by `make generate`. Do not edit."
WIDTH = 110


def values_yaml() -> str:
    """Every key with its default, and its meaning above it."""
    lines = [f"# {NOTE}"]
    for line in _values(chart_values.Chart, chart_values.Chart(), 0):
        lines += [""] if line.startswith("# --") else []
        lines.append(line)
    return "\n".join(lines) + "\n"


def _values(model: type[BaseModel], value: BaseModel, depth: int) -> Iterator[str]:
    indent = "  " * depth
    for name, field in model.model_fields.items():
        part = getattr(value, name)
        first, *rest = _wrapped(meaning(field), WIDTH - len(indent))
        yield f"{indent}# -- {first}"
        yield from (f"{indent}# {line}" for line in rest)
        if isinstance(part, BaseModel):
            yield f"{indent}{field.alias}:"
            yield from _values(type(part), part, depth + 1)
        else:
            spelled = yaml.safe_dump({field.alias: part}, sort_keys=False, width=WIDTH, allow_unicode=True)
            yield from (f"{indent}{line}" for line in spelled.splitlines())


def meaning(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _wrapped(text: str, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) + 1 > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def schema_json() -> str:
    """JSON schema of the values, without references, so that an error names the place."""
    whole = chart_values.Chart.model_json_schema(by_alias=True)
    body = _inlined(whole, whole.pop("$defs", {}))
    root = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$comment": NOTE}
    return json.dumps(root | body | chart_values.NEEDS_NAMESPACES, indent=2, ensure_ascii=False) + "\n"


def _inlined(node: Any, definitions: Json, properties: bool = False) -> Any:
    """References replaced by what they name. Titles go (they repeat the keys), unless `title` is a key itself."""
    if isinstance(node, list):
        return [_inlined(part, definitions) for part in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        node = definitions[node["$ref"].rsplit("/", 1)[-1]] | {key: node[key] for key in node if key != "$ref"}
    kept = {key: part for key, part in node.items() if properties or key != "title"}
    found = {key: _inlined(part, definitions, key == "properties") for key, part in kept.items()}
    if "description" in found and not properties:
        found["description"] = " ".join(found["description"].split())
    return found


def table() -> str:
    """One row for each value."""
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    rows += [f"| `{key}` | {kind} | {default} | {text} |" for key, kind, default, text in _rows()]
    return "\n".join(rows) + "\n"


def _rows() -> Iterator[tuple[str, str, str, str]]:
    schema = json.loads(schema_json())
    for key, field, default in leaves(chart_values.Chart, chart_values.Chart(), ""):
        node = schema
        for part in key.split("."):
            node = node["properties"][part]
        spelled = json.dumps(default, ensure_ascii=False) if default not in ("", [], {}) else ""
        yield key, _type(node), f"`{spelled}`" if spelled else "", meaning(field).replace("|", "\\|")


def leaves(model: type[BaseModel], value: BaseModel, place: str) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Every key that holds no further group, with its default."""
    for name, field in model.model_fields.items():
        part, key = getattr(value, name), f"{place}{field.alias}"
        if isinstance(part, BaseModel):
            yield from leaves(type(part), part, f"{key}.")
        else:
            yield key, field, part


def _type(node: Json) -> str:
    if "enum" in node:
        return ", ".join(f"`{word}`" for word in node["enum"])
    low, high = node.get("minimum"), node.get("maximum")
    return f"{node['type']}, {low}–{high}" if low is not None and high is not None else str(node["type"])
