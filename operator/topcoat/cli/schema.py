"""`topcoat schema`: the JSON schema of a kind, for editors and for checks without a cluster."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

from topcoat.api import crd
from topcoat.cli import terminal


class Kind(StrEnum):
    """Kinds that a user can write."""

    FINETUNEJOB = "finetunejob"
    FINETUNEPROFILE = "finetuneprofile"
    MODELSERVER = "modelserver"


def schema(
    kind: Annotated[Kind, typer.Argument(help="Kind of object.")] = Kind.FINETUNEJOB,
    custom_resource: Annotated[bool, typer.Option("--crd", help="Print the CustomResourceDefinition instead.")] = False,
) -> None:
    """Print the JSON schema of a kind.

    Editors check a manifest while you write it: save the schema as a file, and begin the manifest with
    `# yaml-language-server: $schema=FILE`.
    """
    found = next(row for row in crd.KINDS if row.model.__name__.lower() == kind.value)
    if custom_resource:
        import yaml

        terminal.say(
            yaml.safe_dump(crd.custom_resource_definition(found), sort_keys=False, allow_unicode=True).rstrip()
        )
        return
    made = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": found.model.__name__,
        **found.model.model_json_schema(by_alias=True),
    }
    terminal.say(json.dumps(made, indent=2, ensure_ascii=False))
