"""Spells the API classes as CustomResourceDefinitions: structural schemas with CEL, defaults and columns.

Pure: returns dicts. tools/generate.py writes them. The field walk is pydantic's JSON schema, made structural.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from topcoat.api.finetunejob import FineTuneJob
from topcoat.api.metadata import GROUP, VERSION
from topcoat.api.modelserver import ModelServer
from topcoat.api.profile import FineTuneProfile
from topcoat.api.section import Section

Json = dict[str, Any]
_KEPT = (
    "type",
    "description",
    "pattern",
    "format",
    "enum",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
)


@dataclass(frozen=True, slots=True)
class Column:
    """A printer column."""

    name: str
    path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a CRD needs besides its schema."""

    model: type[Section]
    plural: str
    short: str
    scope: str
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    categories: tuple[str, ...] = ("all", "topcoat")


KINDS: tuple[Kind, ...] = (
    Kind(
        FineTuneJob,
        "finetunejobs",
        "ftj",
        "Namespaced",
        (
            Column("Phase", ".status.phase"),
            Column("Progress", ".status.progress.percent"),
            Column("ETA", ".status.progress.eta"),
            Column("Base", ".spec.baseModel.name", priority=1, description="Catalogue name of the base model"),
            Column("Score", ".status.evaluation.score", description="Base model to candidate"),
            Column("Version", ".status.servedVersion"),
            Column("Layers", ".spec.method.layers", priority=1),
            Column("Loss", ".status.progress.loss", priority=1),
            Column("Queue", ".spec.queueName", priority=1),
            Column("Reason", ".status.conditions[?(@.type=='Ready')].reason", priority=1),
            Column("Endpoint", ".status.endpoint.url", priority=1),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
        selectable=(".spec.profile", ".spec.suspend", ".status.phase"),
    ),
    Kind(
        FineTuneProfile,
        "finetuneprofiles",
        "ftp",
        "Cluster",
        (Column("Age", ".metadata.creationTimestamp", "date"),),
        categories=("topcoat",),
    ),
    Kind(
        ModelServer,
        "modelservers",
        "ms",
        "Namespaced",
        (
            Column("Base", ".spec.baseModel.name"),
            Column("Ready", ".status.readyReplicas", "integer"),
            Column("Replicas", ".spec.replicas", "integer"),
            Column("Age", ".metadata.creationTimestamp", "date"),
        ),
    ),
)


def custom_resource_definitions() -> dict[str, Json]:
    """All CRDs by file name."""
    return {f"{GROUP}_{kind.plural}.yaml": custom_resource_definition(kind) for kind in KINDS}


def custom_resource_definition(kind: Kind) -> Json:
    """One CRD, apiextensions.k8s.io/v1."""
    name = kind.model.__name__
    version: Json = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": _root(kind.model)},
        "additionalPrinterColumns": [_column(column) for column in kind.columns],
    }
    if "status" in kind.model.model_fields:
        version["subresources"] = {"status": {}}
    if kind.model is ModelServer:
        # What `kubectl scale` and a HorizontalPodAutoscaler use.
        version["subresources"]["scale"] = {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.readyReplicas",
            "labelSelectorPath": ".status.selector",
        }
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short],
                "categories": list(kind.categories),
            },
            "scope": kind.scope,
            "versions": [version],
        },
    }


def _column(column: Column) -> Json:
    shown: Json = {"name": column.name, "type": column.type, "jsonPath": column.path}
    if column.priority:
        shown["priority"] = column.priority
    if column.description:
        shown["description"] = column.description
    return shown


def _root(model: type[Section]) -> Json:
    schema = section_schema(model)
    properties = schema["properties"]
    properties["apiVersion"] = {"type": "string"}
    properties["kind"] = {"type": "string"}
    properties["metadata"] = {"type": "object"}
    schema["required"] = ["spec"]
    # A CRD's root may not have a default or demand what the API server itself fills in.
    name_rule = {
        "rule": "self.metadata.name.size() <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')",
        "message": "metadata.name must be a DNS label of at most 63 characters: lower case letters, digits and '-'",
    }
    schema["x-kubernetes-validations"] = [name_rule, *_metadata_rules(model)]
    return schema


def _metadata_rules(model: type[Section]) -> list[Json]:
    """Rules about metadata stand on the root: its own schema is the API server's."""
    metadata: Any = model.model_fields["metadata"].annotation
    return [{"rule": rule.cel.replace("self.", "self.metadata."), "message": rule.message} for rule in metadata.rules]


def section_schema(model: type[Section]) -> Json:
    """The structural schema of one section, all parts inlined."""
    whole = model.model_json_schema(by_alias=True)
    return _section(model, whole, whole.get("$defs", {}))


def _section(model: type[Section], node: Json, definitions: Json) -> Json:
    schema: Json = {"type": "object"}
    description = " ".join((model.__doc__ or "").split())
    if description:
        schema["description"] = description
    schema["properties"] = {
        alias: _field(alias, part, model, definitions) for alias, part in node.get("properties", {}).items()
    }
    if node.get("required"):
        schema["required"] = sorted(node["required"])
    validations = [_validation(rule, model) for rule in model.rules]
    if validations:
        schema["x-kubernetes-validations"] = validations
    return schema


def _validation(rule: Any, model: type[Section]) -> Json:
    spelled: Json = {"rule": rule.cel, "message": rule.message}
    if rule.field:
        spelled["fieldPath"] = "." + _alias(model, rule.field)
    return spelled


def _alias(model: type[Section], name: str) -> str:
    return model.model_fields[name].alias or name


def _field(alias: str, node: Json, model: type[Section], definitions: Json) -> Json:
    name = next(key for key, field in model.model_fields.items() if (field.alias or key) == alias)
    return _node(node, _sections_in(model.model_fields[name].annotation), definitions)


def _sections_in(annotation: Any) -> list[type[Section]]:
    """The API classes that an annotation mentions, however deep (Annotated, unions, tuples, dicts)."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    parts = (
        *getattr(annotation, "__args__", ()),
        *([annotation.__origin__] if hasattr(annotation, "__origin__") else []),
    )
    return [found for part in parts for found in _sections_in(part)]


def _node(node: Json, sections: list[type[Section]], definitions: Json) -> Json:
    """One field's schema: references inlined, null dropped, only keys that a structural schema may have."""
    merged = _merged(node, definitions)
    if "title" in merged and merged.get("type") == "object" and sections and "properties" in merged:
        schema = _section(sections[0], merged, definitions)
        if "description" in node:
            schema["description"] = _one_line(node["description"])
    else:
        schema = {key: merged[key] for key in _KEPT if key in merged}
        if "description" in schema:
            schema["description"] = _one_line(schema["description"])
        if "items" in merged:
            schema["items"] = _node(merged["items"], sections, definitions)
        _with_map(schema, merged, sections, definitions)
        _with_int_or_string(schema, merged, definitions)
        if schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("type", "object")
        if "const" in merged:
            schema["enum"] = [merged["const"]]
            schema["type"] = "string"
    if node.get("default") is not None:
        # Whole objects, not {}: the API server checks a default against the rules before it fills in what lies below.
        schema["default"] = _without_null(node["default"])
    return schema


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(part) for key, part in value.items() if part is not None}
    return value


def _merged(node: Json, definitions: Json) -> Json:
    if "anyOf" in node:
        real = [part for part in node["anyOf"] if part.get("type") != "null"]
        if len(real) == 1:
            node = {**_merged(real[0], definitions), **{key: node[key] for key in node if key != "anyOf"}}
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[-1]]
        node = {**target, **{key: node[key] for key in node if key != "$ref"}}
    return node


def _with_int_or_string(schema: Json, merged: Json, definitions: Json) -> None:
    """`x-kubernetes-int-or-string` excludes `type`, so its limits become a rule."""
    if not merged.get("x-kubernetes-int-or-string"):
        return
    parts = [_merged(part, definitions) for part in merged["anyOf"]]
    number = next(part for part in parts if part.get("type") == "integer")
    words = [word for part in parts for word in part.get("enum", [part["const"]] if "const" in part else [])]
    listed = ", ".join(f"'{word}'" for word in words)
    # The API server's own spelling of an int-or-string must be repeated here.
    schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    schema["x-kubernetes-validations"] = [
        {
            "rule": f"type(self) == int ? int(self) >= {number['minimum']} && int(self) <= {number['maximum']}"
            f" : string(self) in [{listed}]",
            "message": f"must be {', '.join(words)} or a whole number from {number['minimum']} to {number['maximum']}",
        }
    ]


def _with_map(schema: Json, merged: Json, sections: list[type[Section]], definitions: Json) -> None:
    """A map's values are additionalProperties; patternProperties are not structural, so a rule checks the keys."""
    patterns = merged.get("patternProperties", {})
    values = next(iter(patterns.values()), merged.get("additionalProperties"))
    if not isinstance(values, dict):
        return
    schema["additionalProperties"] = _node(values, sections, definitions)
    for pattern in patterns:
        quoted = pattern.replace("\\", "\\\\")
        schema["x-kubernetes-validations"] = [
            {"rule": f"self.all(key, key.matches('{quoted}'))", "message": f"keys must match {pattern}"}
        ]


def _one_line(text: str) -> str:
    return " ".join(text.split())
