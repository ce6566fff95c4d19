"""Spells docs/reference/cli.md from the command line itself: every verb, its help, arguments and options."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from typing import Any

NOTE = "<!-- Generated from topcoat.cli by `make generate`. Do not edit. -->\n\n"

INTRODUCTION = (
    "Output goes to standard output; errors, and words beside an answer, go to standard error. An error ends a",
    "command with exit code 1; `topcoat run` and `topcoat apply --watch` have [more exit codes](exit-codes.md).",
    "`NO_COLOR` turns colours off, `TOPCOAT_STORE` names the store, and `TOPCOAT_DEBUG=1` shows where an unexpected",
    "error comes from.",
    "",
    "Verbs with `--store` and `--cluster` work on the local store, and with any of `--cluster`, `--namespace`,",
    "`--context` and `--kubeconfig` on [a cluster](../how-to/work-with-a-cluster.md). `kubectl topcoat` always means",
    "the cluster.",
    "",
)


def page() -> str:
    """The whole page."""
    # The page must not depend on the terminal or the environment of whoever generates it.
    os.environ.pop("TOPCOAT_STORE", None)
    import typer

    from topcoat.cli import app

    root: Any = typer.main.get_command(app.app)
    lines = ["# Command line", "", "`topcoat`, or `kubectl topcoat`. " + _sentence(root.help), ""]
    lines += list(INTRODUCTION)
    for section, verbs in app.VERBS.items():
        lines += [f"## {section}", ""]
        for verb in verbs:
            lines += list(_command(root.commands[verb], f"topcoat {verb}"))
    return NOTE + "\n".join(lines).rstrip() + "\n"


def _command(command: Any, said: str) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    for name, child in inner.items():
        yield from _command(child, f"{said} {name}")
    if inner:
        return
    arguments = [part for part in command.params if part.param_type_name == "argument"]
    options = [part for part in command.params if part.param_type_name == "option" and not part.hidden]
    yield from (f"### `{said}`", "")
    if arguments:
        yield from (f"`{' '.join([said, *(_usage(part) for part in arguments)])}`", "")
    yield from (_paragraphs(command.help), "")
    if arguments or options:
        yield from ("| argument, option | default | meaning |", "|---|---|---|")
        yield from (_row(part) for part in [*arguments, *options])
        yield ""


def _usage(argument: Any) -> str:
    word = argument.metavar or argument.name.upper()
    return word if argument.required else f"[{word}]"


def _row(part: Any) -> str:
    if part.param_type_name == "argument":
        name = part.metavar or part.name.upper()
    else:
        metavar = "" if part.is_flag else f" {part.metavar or _choices(part) or 'VALUE'}"
        name = ", ".join([*part.opts, *part.secondary_opts]) + metavar
    name, text = (words.replace("|", "\\|") for words in (name, part.help or ""))
    return f"| `{name}` | {_default(part)} | {text} |"


def _choices(part: Any) -> str:
    """Values of an option whose default is an enumeration's."""
    kind = type(part.default)
    return "|".join(str(member.value) for member in kind) if issubclass(kind, enum.Enum) else ""


def _default(part: Any) -> str:
    value = part.default
    if value in (None, False, ()) or part.required or callable(value):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


def _paragraphs(text: str | None) -> str:
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))
