"""The one way in and out of every trainer process: its arguments, its signals, its last word, its exit code.

Whatever happens, the word is said: also of a run file that cannot be read. Never imports torch.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pydantic

from topcoat.api.report import Outcome, Termination
from topcoat.api.run import RunFile
from topcoat_trainer import last_word
from topcoat_trainer.errors import Stopped, TrainerError, UserInputError
from topcoat_trainer.loop.stop import Stop

logger = logging.getLogger(__name__)

Work = Callable[[RunFile, Stop], Termination]


def parser(module: str, description: str) -> argparse.ArgumentParser:
    """The arguments that every process has."""
    made = argparse.ArgumentParser(prog=f"topcoat_trainer.{module}", description=description)
    made.add_argument("--run-file", type=Path, required=True, help="JSON file written by the planner")
    made.add_argument("--last-word", type=Path, help="file that the last word is written to, besides the run's folder")
    made.set_defaults(quiet=False)
    return made


def carry_out(options: argparse.Namespace, work: Work) -> int:
    """Does the work of a process; the exit code is one of topcoat.api.exits."""
    stop = Stop()
    with stop.listening():
        word = said(lambda: work(read_run_file(options.run_file), stop), stop)
        if options.last_word is not None:
            last_word.tell(options.last_word, word)
    if word.outcome is Outcome.FAILED:
        if not options.quiet:
            sys.stderr.write(f"{word.message}. To fix it: {word.hint}\n")
        return word.exit_code
    return 0


def said(work: Callable[[], Termination], stop: Stop) -> Termination:
    """What came of the work; an exception becomes a last word of failure. From then on no signal is heard."""
    try:
        word = work()
        stop.deafen()
    except BaseException as error:  # noqa: BLE001 - the process's last line of defence
        stop.deafen()
        return last_word.failed(cause(error, stop))
    return word


def cause(error: BaseException, stop: Stop) -> TrainerError:
    """What to say of an exception. After a signal, whatever a library made of it, it was the signal."""
    if stop.asked and not isinstance(error, TrainerError):
        return Stopped("stopped as asked")
    known = last_word.known(error)
    if known is not error:
        # Places and code only: an exception's own words may quote a row.
        logger.error("%s\n%s", known.message, "".join(traceback.format_tb(error.__traceback__)))
    return known


def keep(folder: Path, word: Termination) -> None:
    """Leaves the word in the run's folder, where local mode and `inspect` read it."""
    with contextlib.suppress(TrainerError, OSError):
        last_word.write(folder, word)


def read_run_file(path: Path) -> RunFile:
    """The run file, or UserInputError."""
    try:
        return RunFile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserInputError(
            f"the run file cannot be read ({type(error).__name__})", where=str(path), hint="give a run file's path"
        ) from None
    except pydantic.ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise UserInputError(
            f"not a run file: {place}: {first['msg']}",
            where=str(path),
            hint="let topcoat write it; versions must match",
        ) from None
