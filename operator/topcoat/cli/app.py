"""The command `topcoat`: its verbs, and what becomes of errors. A verb's module is imported only when it is called.

`topcoat --help` must stay cheap: this file imports typer and nothing else that is heavy.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, MutableMapping
from typing import Any

import typer
import typer.core
import typer.main

from topcoat.cli import terminal

VERBS: dict[str, dict[str, str]] = {
    "Start": {
        "demo": "The whole way in minutes: a real small model learns to sort insurance claims",
        "init": "Write a FineTuneJob for a data file",
        "doctor": "Check data, or a cluster, before anything is trained",
    },
    "Tune": {
        "run": "Train, judge and serve what a manifest asks for, on this machine",
        "apply": "The same in a cluster; with --watch to the verdict",
        "watch": "Follow a run: progress, time to go, loss curve",
        "get": "List jobs, or print one",
        "status": "What is known of a job, in words",
        "logs": "What the pods of a job say",
        "retrain": "Ask for one run now",
        "suspend": "Stop a job's run at a checkpoint",
        "resume": "Let a suspended job go on",
    },
    "Judge": {
        "ask": "Ask the tuned model, or the base model",
        "compare": "Base and tuned answers side by side: wins and losses",
        "report": "Why a version was promoted or not",
    },
    "Serve": {
        "serve": "Answer clients with what is promoted here, in OpenAI's protocol",
        "promote": "Serve a version that a person chose",
        "rollback": "Serve the version before",
        "export": "Copy a version out, or merge it into its base model",
    },
    "Look up": {
        "schema": "The manifest's JSON schema, for editors",
        "explain": "What a field of the manifest means",
        "support-bundle": "What helps to find a fault, without secrets and data",
        "version": "Versions of Topcoat and of the libraries it uses",
    },
}
SHORT = {verb: text for verbs in VERBS.values() for verb, text in verbs.items()}
PLAIN: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["--help", "-h"], "max_content_width": 100},
}


def load(verb: str) -> Any:
    """The verb's command, from its module: `topcoat.cli.<verb>.<verb>`, a function or a Typer of its own."""
    word = verb.replace("-", "_")
    made = getattr(importlib.import_module(f"topcoat.cli.{word}"), word)
    if not isinstance(made, typer.Typer):
        function, made = made, typer.Typer(**PLAIN)
        made.command(verb)(function)
    command = typer.main.get_command(made)
    command.name = verb
    return command


class Verbs(MutableMapping[str, Any]):
    """All verbs by name; one is loaded when somebody asks for it."""

    def __init__(self) -> None:
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, verb: str) -> Any:
        if verb not in self._loaded:
            if verb not in SHORT:
                raise KeyError(verb)
            self._loaded[verb] = load(verb)
        return self._loaded[verb]

    def __setitem__(self, verb: str, command: Any) -> None:
        self._loaded[verb] = command

    def __delitem__(self, verb: str) -> None:
        del self._loaded[verb]

    def __iter__(self) -> Iterator[str]:
        return iter(SHORT)

    def __len__(self) -> int:
        return len(SHORT)


class CommandLine(typer.core.TyperGroup):
    """The group of all verbs. Its help comes from the table above, so that no verb is loaded for it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "commands": {}})
        self.commands = Verbs()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for section, verbs in VERBS.items():
            with formatter.section(section):
                formatter.write_dl(list(verbs.items()), col_max=16)

    def main(self, *arguments: Any, **named: Any) -> Any:
        """Runs a command line and ends the process with its exit code, whatever happens."""
        sys.exit(self._exit_code(*arguments, **{**named, "standalone_mode": False}))

    def _exit_code(self, *arguments: Any, **named: Any) -> int:
        try:
            code = super().main(*arguments, **named)
            return code if isinstance(code, int) else 0
        except terminal.Failure as failure:
            terminal.show_failure(failure)
            return failure.exit_code
        except typer.Abort:
            sys.stderr.write("Stopped.\n")
            return 1
        except Exception as error:
            if terminal.debugging():
                raise
            terminal.show_failure(_failure(error))
            return 1


def _failure(error: Exception) -> terminal.Failure:
    """An exception that is not ours, in one line and with a next step."""
    if hasattr(error, "format_message"):  # Typer's own errors: a wrong option, an unknown verb
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else terminal.program()
        return terminal.Failure(
            " ".join(error.format_message().split()), hint=f"`{command} --help` shows what it takes"
        )
    if isinstance(error, ModuleNotFoundError):
        return terminal.Failure(
            f"the Python package {error.name!r} is not installed", hint="python -m pip install 'topcoat[cli,trainer]'"
        )
    if isinstance(error, OSError) and error.filename:
        return terminal.Failure(str(error.strerror or error), where=str(error.filename))
    said = " ".join(str(error).split())[:300]
    return terminal.Failure(
        f"unexpected {type(error).__name__}{f': {said}' if said else ''}",
        hint="set TOPCOAT_DEBUG=1 and try again to see where it comes from, and report it",
    )


app = typer.Typer(cls=CommandLine, no_args_is_help=False, invoke_without_command=True, **PLAIN)


def _show_version(wanted: bool) -> None:
    if wanted:
        from topcoat.cli import version

        terminal.say(version.own())
        raise typer.Exit


@app.callback()
def topcoat(
    context: typer.Context,
    version: bool = typer.Option(  # noqa: ARG001 - its callback does the work
        False, "--version", callback=_show_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Fine-tune the last layers of an open model, prove that it beats what you have, and serve it."""
    if context.invoked_subcommand is None:
        terminal.say(context.get_help())


def main() -> None:
    """Entry point of the console scripts `topcoat` and `kubectl-topcoat`."""
    typer.main.get_command(app)(prog_name=terminal.program())
