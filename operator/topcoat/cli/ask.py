"""`topcoat ask`: one question to the tuned model or to its base. Standard output holds the answer alone."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from topcoat.cli import option, place, terminal

Answer = dict[str, Any]
TEXT_HELP = "What to ask; - reads it from standard input."
LIKELIEST = 3


@place.given
def ask(  # noqa: PLR0913 - each is an option that a person gives
    name: option.Job,
    text: Annotated[str, typer.Argument(metavar="TEXT", help=TEXT_HELP, show_default=False)],
    *,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model instead.")] = False,
    version: option.Version = None,
    output: option.Answer = option.Plain.TEXT,
    token: option.Token = "",
    here: place.Place,
) -> None:
    """Ask the version that serves, another one (--version vN), or the base model (--base).

    Before it answers, the version's files are compared with their seal: if a byte differs, it refuses. In a cluster
    the model server is asked, through the API server.
    """
    job = here.job(name)
    text = sys.stdin.read() if text == "-" else text
    if not text.strip():
        terminal.fail("there is nothing to ask", hint=f'topcoat ask {name} "your text"')
    (said,) = here.ask(job, text, [place.Asked(version, base=base)], token)
    if output is option.Plain.JSON:
        terminal.say(json.dumps(said, indent=2, ensure_ascii=False))
        return
    words = str(said["answer"])
    terminal.say(terminal.clean(words) if terminal.is_terminal() else words)
    _aside(job.metadata.name, said, here.words, base=base)


def _aside(name: str, said: Answer, at: str, *, base: bool) -> None:
    """Beside the answer, on standard error: how sure, who answered; the next command only on a terminal."""
    who = said.get("version") or "base model"
    likely = said.get("probabilities") or {}
    best = sorted(likely.items(), key=lambda row: -row[1])[:LIKELIEST]
    sure = ", ".join(f"{terminal.clean(label)} {share:.0%}" for label, share in best)
    terminal.note(f"{who}{f': {sure}' if sure else ''}")
    if terminal.is_terminal():
        other = f'topcoat compare {name} "…"' if base else f'topcoat ask {name} "…" --base'
        terminal.next_step(f"{other}{at}", "asks both" if base else "asks the base model")
