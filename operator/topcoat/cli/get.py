"""`topcoat get`: jobs of the store, one or all."""

from __future__ import annotations

from typing import Annotated

import typer

from topcoat.cli import option, show, store, terminal

NAME_HELP = "Name of a FineTuneJob; all of them without it."


def get(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=NAME_HELP, show_default=False)] = None,
    output: option.Output = option.Form.TABLE,
    store_folder: option.Store = option.DEFAULT_STORE,
) -> None:
    """List jobs, or print one, with what is wanted (spec) and what is (status)."""
    here = store.Store(store_folder)
    found = [here.job(name)] if name else here.jobs()
    plain = output in (option.Form.TABLE, option.Form.WIDE)
    if plain and not found:
        terminal.say(f"There is no job in the store {store_folder}.")
        terminal.next_step("topcoat init DATA.jsonl", "writes the first manifest; `topcoat demo` shows the whole way")
        return
    show.objects([job.as_json() for job in found], output, one=name is not None)
    if plain:
        terminal.next_step(f"topcoat status {found[0].metadata.name}{option.at(store_folder)}")
