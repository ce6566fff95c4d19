"""What a person's terminal sees: text, colours, errors, the next command. Knows no verb and no job.

No colours off a TTY or with NO_COLOR. Text of models and data goes through `clean`: it may hold control characters.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    import rich.console

STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36"}
WIDEST_COLUMNS = 120


class Failure(Exception):
    """What went wrong, where, and how to mend it. Ends the command with `exit_code`."""

    def __init__(self, message: str, where: str = "", hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint
        self.exit_code = exit_code


def fail(message: str, where: str = "", hint: str = "") -> NoReturn:
    """Ends the command with exit code 1; the message goes to standard error."""
    raise Failure(message, where, hint)


def show_failure(failure: Failure) -> None:
    """The error as people see it: one line, and one more with the way out."""
    place = f"{failure.where}: " if failure.where else ""
    lines = [f"{paint('Error', 'red', sys.stderr)}: {place}{failure.message.rstrip('.')}"]
    if failure.hint:
        hint = failure.hint.replace("`topcoat ", f"`{program()} ")
        lines.append(f"{paint('To fix it', 'bold', sys.stderr)}: {hint}")
    sys.stderr.write(clean("\n".join(lines), keep_colours=colours(sys.stderr)) + "\n")
    sys.stderr.flush()


def program() -> str:
    """What people type to call us: `topcoat`, or `kubectl topcoat`."""
    return "kubectl topcoat" if Path(sys.argv[0]).name.startswith("kubectl") else "topcoat"


def say(text: str = "") -> None:
    """One piece of output, with its line end."""
    sys.stdout.write(f"{text}\n")


def note(text: str) -> None:
    """A word beside the output: dim, on standard error, so that a pipe gets the output alone."""
    sys.stderr.write(paint(text, "dim", sys.stderr) + "\n")


def next_step(command: str, why: str = "") -> None:
    """The last line: the command to try next."""
    if command.startswith("topcoat "):
        command = program() + command.removeprefix("topcoat")
    said = f"Next: {paint(command, 'cyan')}"
    say(f"{said}   {paint(why, 'dim')}" if why else said)


def colours(stream: TextIO | None = None) -> bool:
    """Whether the stream is a terminal that wants colours."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def is_terminal(stream: TextIO | None = None) -> bool:
    return (stream or sys.stdout).isatty()


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """The text in a style, where the stream wants colours."""
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if text and colours(stream) else text


def clean(text: str, *, keep_colours: bool = False) -> str:
    """The text without characters that steer a terminal; line ends and tabs stay."""
    kept = "\n\t\x1b" if keep_colours else "\n\t"
    return "".join(letter for letter in text if letter in kept or (letter.isprintable() or letter == " "))


def width() -> int:
    """Columns to write in."""
    return min(WIDEST_COLUMNS, shutil.get_terminal_size((100, 24)).columns)


def console(*, stderr: bool = False) -> rich.console.Console:
    """Rich's console for tables and live views, under the same rules. Imported late: it is slow to load."""
    import rich.console

    stream = sys.stderr if stderr else sys.stdout
    return rich.console.Console(stderr=stderr, no_color=not colours(stream), highlight=False, soft_wrap=False)


@contextlib.contextmanager
def hearing(hear: Callable[[], None]) -> Iterator[None]:
    """Inside it SIGINT, SIGTERM and SIGHUP call `hear` instead of ending the process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda _number, _frame: hear()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def debugging() -> bool:
    """Whether unexpected errors show where they come from."""
    return bool(os.environ.get("TOPCOAT_DEBUG"))
