"""`topcoat get`: jobs of the store or of a namespace, one or all."""

from __future__ import annotations

from typing import Annotated

import typer

from topcoat.cli import option, place, show, terminal

NAME_HELP = "Name of a FineTuneJob; all of them without it."


@place.given
def get(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help=NAME_HELP, show_default=False)] = None,
    output: option.Output = option.Form.TABLE,
    *,
    here: place.Place,
) -> None:
    """List jobs, or print one, with what is wanted (spec) and what is (status)."""
    found = [here.body(name)] if name else here.bodies()
    plain = output in (option.Form.TABLE, option.Form.WIDE)
    if plain and not found:
        terminal.say(f"There is no job in {here.describe()}.")
        terminal.next_step("topcoat init DATA.jsonl", "writes the first manifest; `topcoat demo` shows the whole way")
        return
    show.objects(found, output, one=name is not None)
    if plain:
        terminal.next_step(f"topcoat status {found[0]['metadata']['name']}{here.words}")
