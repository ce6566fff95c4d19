"""The CRDs are structural, say every default that Python says, and describe every field."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.structural import with_defaults
from topcoat.api import crd
from topcoat.api.finetunejob import FineTuneJob

KINDS = {kind.model.__name__: kind for kind in crd.KINDS}


def schema_of(kind: crd.Kind) -> dict[str, Any]:
    schema: dict[str, Any] = crd.custom_resource_definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def nodes(path: str, schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, part in schema.get("properties", {}).items():
        yield from nodes(f"{path}.{name}", part)
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from nodes(f"{path}[]", schema[word])


@pytest.mark.parametrize("name", KINDS)
def test_every_node_is_structural_and_bounded(name: str) -> None:
    checked = 0
    for path, node in nodes(name, schema_of(KINDS[name])):
        checked += 1
        assert "$ref" not in node, path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        if node.get("type") == "array":
            assert "maxItems" in node or ".status" in path, path
        if node.get("type") == "string" and path.count(".") > 1 and "enum" not in node:
            assert "maxLength" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
    assert checked > 25


@pytest.mark.parametrize("name", KINDS)
def test_every_field_has_a_text(name: str) -> None:
    silent = [
        path
        for path, node in nodes(name, schema_of(KINDS[name]))
        if path.count(".") >= 1 and not path.endswith("[]") and "description" not in node
    ]
    assert silent == [f"{name}.apiVersion", f"{name}.kind", f"{name}.metadata"]


def test_the_crd_fills_in_the_same_defaults_as_python() -> None:
    body = {
        "apiVersion": "topcoat.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "claims"},
        "spec": {"baseModel": {"uri": "hf://a/b"}, "dataset": {"train": {"uri": "pvc://c/a.jsonl"}}},
    }
    by_server = with_defaults(schema_of(KINDS["FineTuneJob"]), body)
    by_python = FineTuneJob.model_validate(body).as_json()
    assert by_server["spec"] == by_python["spec"]


def test_the_columns_are_those_that_people_ask_for() -> None:
    columns = [column.name for column in KINDS["FineTuneJob"].columns if column.priority == 0]
    assert columns == ["Phase", "Progress", "ETA", "Score", "Version", "Age"]
