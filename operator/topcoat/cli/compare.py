"""`topcoat compare`: base and tuned answers side by side, from the sealed evidence or to a question of your own."""

from __future__ import annotations

import json
import textwrap
from typing import Annotated

import typer

from topcoat.api import report as reports
from topcoat.cli import ask, option, place, sealed, terminal, trainer_process

WITH_HELP = "Compare with this version instead of with the base model."
Names = tuple[str, str]
TEXT_HELP = "A question of your own for both models; without it, the held-out rows where they differ most."


@place.given
def compare(  # noqa: PLR0913 - each is an option that a person gives
    name: option.Job,
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help=TEXT_HELP, show_default=False)] = None,
    *,
    version: option.Version = None,
    other: Annotated[str | None, typer.Option("--with", metavar="vN", help=WITH_HELP, show_default=False)] = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=20, help="Wins and losses to show at most.")] = 5,
    output: option.Answer = option.Plain.TEXT,
    token: option.Token = "",
    here: place.Place,
) -> None:
    """Show where the tuned model is better than its base model, and where it is worse.

    The rows are held-out ones that the model has never seen. They are your data: mind who reads along.
    """
    job = here.job(name)
    if text is not None:
        asked = here.ask(job, text, [place.Asked(base=True), place.Asked(version)], token)
        answers = dict(zip(("base", "tuned"), asked, strict=True))
        _show_answers(text, answers, output)
        if output is option.Plain.TEXT:
            why = "shows wins and losses on held-out rows"
            terminal.next_step(f"topcoat compare {job.metadata.name}{here.words}", why)
        return
    found = sealed.latest(here, job, version)
    if other is not None:
        _show_versions(sealed.version(here, job, other), found, rows, output)
        return
    evidence = found.evaluation()
    if output is option.Plain.JSON:
        body = evidence.as_json()
        keys = ("metric", "base", "candidate", "samples", "verdict", "wins", "losses")
        terminal.say(json.dumps({key: body[key] for key in keys}, indent=2, ensure_ascii=False))
        return
    _show(found, evidence, rows)
    command = f"topcoat report {job.metadata.name} --version {found.entry.version}{here.words}"
    terminal.next_step(command, "has the whole picture")


def _show(found: sealed.Sealed, evidence: reports.EvaluationReport, rows: int) -> None:
    title = f"{found.job.metadata.name} {found.entry.version} and its base model"
    terminal.say(f"{terminal.paint(title, 'bold')}, {evidence.samples:,} held-out rows")
    terminal.say(f"  {evidence.metric}: base {evidence.base:.3f}, tuned {evidence.candidate:.3f}\n")
    _pairs("Wins", "green", evidence.wins, rows)
    _pairs("Losses", "red", evidence.losses, rows)


def _show_versions(old: sealed.Sealed, new: sealed.Sealed, rows: int, output: option.Plain) -> None:
    """Two versions on the rows that both have judged."""
    folders = [str(one.answers().parent.resolve()) for one in (old, new)]
    found = trainer_process.call("gate.compare", folders)
    if output is option.Plain.JSON:
        terminal.say(json.dumps(found, indent=2, ensure_ascii=False))
        return
    names = (old.entry.version, new.entry.version)
    title = f"{old.job.metadata.name}: {names[0]} and {names[1]}"
    counts = f"{names[1]} is better on {found['better']:,} and worse on {found['worse']:,}"
    terminal.say(
        f"{terminal.paint(title, 'bold')}, {found['rows']:,} held-out rows that both have judged\n  {counts}\n"
    )
    for word, style in (("wins", "green"), ("losses", "red")):
        pairs = [reports.AnswerPair.model_validate(pair) for pair in found[word]]
        _pairs(word.capitalize(), style, pairs, rows, names)


def _pairs(
    title: str, style: str, pairs: list[reports.AnswerPair], rows: int, names: Names = ("base", "tuned")
) -> None:
    count = f"{len(pairs)}" if len(pairs) <= rows else f"{rows} of {len(pairs)} listed"
    terminal.say(terminal.paint(f"{title} ({count})", style))
    for pair in pairs[:rows]:
        parts = {"asked": pair.prompt, "right": pair.expected, names[0]: pair.before, names[1]: pair.after}
        terminal.say(f"  {terminal.paint(f'row {pair.row}', 'dim')}")
        for name, said in parts.items():
            terminal.say(_line(name, said))
    terminal.say()


def _line(name: str, said: str) -> str:
    text = " ".join(terminal.clean(said).split()) or "(nothing)"
    head = f"    {name:<6} "
    room = terminal.width() - len(head)
    wrapped = textwrap.wrap(textwrap.shorten(text, 4 * room, placeholder=" …"), room) or [""]
    return head + f"\n{' ' * len(head)}".join(wrapped)


def _show_answers(text: str, answers: dict[str, ask.Answer], output: option.Plain) -> None:
    if output is option.Plain.JSON:
        terminal.say(json.dumps(answers, indent=2, ensure_ascii=False))
        return
    terminal.say(_line("asked", text))
    for who, said in answers.items():
        terminal.say(_line(who, str(said["answer"])))
    terminal.say()
