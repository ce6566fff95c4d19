"""`topcoat export`: a sealed version copied out, as a PEFT folder or merged into its base. Never changes the store.

The trainer compares every byte with the seal first, and does the merging.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from topcoat.cli import local_place, option, place, sealed, terminal, trainer_process

export = typer.Typer(add_completion=False, rich_markup_mode=None)
Target = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder to make; it must not be there.", show_default=False)
]


@export.callback()
def _export() -> None:
    """Copy a version out, or merge it into its base model."""


@export.command("hf", short_help="The adapter as peft and model hubs know it")
def hugging_face(
    name: option.Job,
    folder: Target,
    *,
    version: option.Version = None,
    store_folder: option.Store = option.DEFAULT_STORE,
) -> None:
    """Copy the adapter out as peft and model hubs know it, with its tokenizer and its card."""
    _exported("hf", name, folder, version, store_folder)
    terminal.next_step(f"ls {shlex.quote(str(folder))}", "peft.PeftModel.from_pretrained(base, DIR) loads it")


@export.command("merged", short_help="A whole model with the tuned layers in it")
def merged(
    name: option.Job,
    folder: Target,
    *,
    version: option.Version = None,
    store_folder: option.Store = option.DEFAULT_STORE,
) -> None:
    """Write a whole model with the tuned layers in it, for servers that know no adapters."""
    _exported("merged", name, folder, version, store_folder)
    terminal.next_step(f"ls {shlex.quote(str(folder))}", "AutoModelForCausalLM.from_pretrained(DIR) loads it")


def _exported(form: str, name: str, folder: Path, version: str | None, store_folder: Path) -> None:
    place.not_in_cluster(
        "a version is exported where its files are, in a local store", "in a cluster they lie on the job's claim"
    )
    here = local_place.LocalPlace(store_folder)
    found = sealed.served(here, here.job(name), version)
    if folder.exists():
        terminal.fail("it is there already", where=str(folder), hint="name a folder that is not there yet")
    request = {
        "form": form,
        "version": str(found.folder.resolve()),
        "digest": found.digest,
        "out": str(folder.resolve()),
    }
    made: dict[str, Any] = trainer_process.call("export", request=request)
    terminal.say(f"{name} {found.entry.version} as {form} in {folder}, {made['bytes'] / 1e6:,.1f} MB.")
    terminal.say(_checked(made))


def _checked(made: dict[str, Any]) -> str:
    if "probeDifference" not in made:
        return "Every file was compared with the seal. Rows of your data stayed with the version."
    return f"Loaded again; its answers differ from the version's by {made['probeDifference']:.2g} in log-probability."
