"""What an API server makes of an object, from the generated CRD alone: schema, unknown fields, defaults, CEL.

A stand-in for the order of things in a real API server, so that the corpus can say which of them must speak. CEL is
evaluated by a real CEL library; the rules' texts are those of the CRD.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import cel
import jsonschema

Json = dict[str, Any]


@dataclass(frozen=True)
class Refusal:
    """One complaint: who spoke, about which field, and what."""

    by: str
    field: str
    message: str


def refusals(schema: Json, value: Any) -> list[Refusal]:
    """Complaints of the schema; if it has none, those of CEL, as the API server orders them."""
    by_schema = [
        Refusal("schema", ".".join(str(part) for part in error.absolute_path), error.message)
        for error in jsonschema.Draft202012Validator(_closed(schema)).iter_errors(value)
    ]
    if by_schema:
        return by_schema
    return _by_cel("", schema, with_defaults(schema, value))


def with_defaults(schema: Json, value: Any) -> Any:
    """The value with every default of the schema filled in, as the API server stores it."""
    value = copy.deepcopy(value)
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name not in value and "default" in part:
                value[name] = copy.deepcopy(part["default"])
            if name in value:
                value[name] = with_defaults(part, value[name])
    elif isinstance(value, list) and "items" in schema:
        value = [with_defaults(schema["items"], item) for item in value]
    return value


def _closed(schema: Json) -> Json:
    """Unknown fields are refused (strict field validation); CRD-only words are spelled in JSON schema's own."""
    closed = {key: part for key, part in schema.items() if not key.startswith("x-kubernetes") and key != "default"}
    if "properties" in schema:
        closed["properties"] = {name: _closed(part) for name, part in schema["properties"].items()}
        closed["additionalProperties"] = False
        if "metadata" in schema["properties"]:
            closed["properties"]["metadata"] = {"type": "object", "required": ["name"]}
            closed["properties"]["apiVersion"] = {"const": "topcoat.dev/v1alpha1"}
            closed["properties"]["kind"] = {"enum": ["FineTuneJob", "FineTuneProfile", "ModelServer"]}
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            closed[word] = _closed(schema[word])
    return closed


def _by_cel(path: str, schema: Json, value: Any) -> list[Refusal]:
    found = [
        Refusal("CEL", path.removeprefix("."), rule["message"])
        for rule in schema.get("x-kubernetes-validations", [])
        if not _holds(rule["rule"], value)
    ]
    if isinstance(value, dict):
        for name, part in schema.get("properties", {}).items():
            if name in value:
                found += _by_cel(f"{path}.{name}", part, value[name])
    elif isinstance(value, list):
        for index, item in enumerate(value):
            found += _by_cel(f"{path}.{index}", schema.get("items", {}), item)
    return found


def _holds(rule: str, value: Any) -> bool:
    context = cel.Context()
    context.add_variable("self", value)
    # Kubernetes' own list library has isSorted(); plain CEL does not.
    context.add_function("isSorted", lambda items: list(items) == sorted(items))
    return bool(cel.evaluate(rule, context))
