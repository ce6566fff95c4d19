"""Arguments and options that several verbs share, so that they are spelled and explained once."""

from __future__ import annotations

import os
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STORE = Path(".topcoat")


class Form(StrEnum):
    """Forms of an object on standard output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


class Plain(StrEnum):
    """Forms of an answer: for people or for programs."""

    TEXT = "text"
    JSON = "json"


Store = Annotated[
    Path,
    typer.Option("--store", envvar="TOPCOAT_STORE", metavar="DIR", help="Where jobs, runs and versions are kept."),
]
CLUSTER_HELP = "Work on the cluster of the kubeconfig's context instead of on the local store."
Cluster = Annotated[bool, typer.Option("--cluster", help=CLUSTER_HELP, show_default=False)]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", metavar="NAME", help="Namespace in the cluster.", show_default=False)
]
Context = Annotated[
    str | None, typer.Option("--context", metavar="NAME", help="Context of the kubeconfig.", show_default=False)
]
Kubeconfig = Annotated[
    Path | None, typer.Option("--kubeconfig", metavar="FILE", help="Another kubeconfig.", show_default=False)
]
Job = Annotated[str, typer.Argument(metavar="NAME", help="Name of the FineTuneJob.", show_default=False)]
Output = Annotated[Form, typer.Option("--output", "-o", help="Form of the output.")]
Answer = Annotated[Plain, typer.Option("--output", "-o", help="Form of the output.")]
Version = Annotated[str | None, typer.Option("--version", metavar="vN", help="Another version.", show_default=False)]


BEARER_HELP = "In a cluster: the model's bearer token, where it asks for one."
Token = Annotated[str, typer.Option(envvar="TOPCOAT_TOKEN", metavar="TOKEN", help=BEARER_HELP, show_default=False)]


def at(store_folder: Path) -> str:
    """What the next command needs to find the same store: nothing, where it is found by itself."""
    found = Path(os.environ.get("TOPCOAT_STORE") or DEFAULT_STORE)
    return "" if store_folder == found else f" --store {shlex.quote(str(store_folder))}"
