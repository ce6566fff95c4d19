"""Starts the trainer's programs as processes of their own, and turns what becomes of them into the CLI's errors.

`topcoat` never imports topcoat_trainer: requests and answers are JSON, errors are exit codes and last words.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from topcoat.api import exits
from topcoat.cli import terminal

NEEDED = ("torch", "transformers", "peft")
WITHOUT_TORCH = ("data.doctor", "gate.compare")
FIX_MARK = ". To fix it: "


def environment(*, online: bool = False) -> dict[str, str]:
    """The environment of a trainer process. Only an `hf://` address lets it ask a model hub."""
    made = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    if not online:
        made["HF_HUB_OFFLINE"] = "1"
    return made


def command(module: str, *arguments: str) -> list[str]:
    """The command line of `topcoat_trainer.<module>`."""
    return [sys.executable, "-m", f"topcoat_trainer.{module}", *arguments]


def check_installed() -> None:
    """Fails in one line where the trainer's packages are missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        terminal.fail(
            f"this needs the trainer's packages; missing: {', '.join(missing)}",
            hint="python -m pip install 'topcoat[cli,trainer]'",
        )


def call(module: str, arguments: Sequence[str] = (), request: Any = None, *, online: bool = False) -> Any:
    """What the program answers, as JSON. `request` goes in as JSON. Fails where the program fails."""
    code, answer, said = collect(module, arguments, request, online=online)
    if code != 0:
        raise failure(code, answer, said)
    if answer is None:
        terminal.fail(f"{module} gave no answer", hint="set TOPCOAT_DEBUG=1 and try again to see what it wrote")
    return answer


def call_each(module: str, requests: Sequence[Any]) -> list[Any]:
    """Answers to several requests from one process, which loads the model once. Fails with the first that fails."""
    lines = "".join(f"{json.dumps(request)}\n" for request in requests)
    code, out, said = _carry_out(module, ["--lines"], lines, online=False)
    answers = [_parsed(line) for line in out.splitlines()]
    if code != 0:
        refused = next((answer for answer in answers if isinstance(answer, dict) and "error" in answer), None)
        raise failure(code, refused, said)
    if len(answers) != len(requests):
        terminal.fail(f"{module} gave no answer", hint="set TOPCOAT_DEBUG=1 and try again to see what it wrote")
    return answers


def collect(
    module: str, arguments: Sequence[str] = (), request: Any = None, *, online: bool = False
) -> tuple[int, Any, str]:
    """Exit code, JSON answer (None if there is none) and the text on standard error."""
    text = None if request is None else json.dumps(request)
    code, out, said = _carry_out(module, arguments, text, online=online)
    return code, _parsed(out), said


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _carry_out(module: str, arguments: Sequence[str], text: str | None, *, online: bool) -> tuple[int, str, str]:
    if module not in WITHOUT_TORCH:
        check_installed()
    done = subprocess.run(
        command(module, *arguments),
        input="" if text is None else text,
        stdout=subprocess.PIPE,
        stderr=None if terminal.debugging() else subprocess.PIPE,
        env=environment(online=online),
        text=True,
        encoding="utf-8",
        check=False,
    )
    return done.returncode, done.stdout, done.stderr or ""


def failure(code: int, answer: Any, said: str, who: str = "the trainer") -> terminal.Failure:
    """The program's end as an error of ours: its own words first, then the table of exit codes."""
    if code < 0:
        return terminal.Failure(
            f"{who} was ended by {_signal(-code)}",
            hint="if you did not do it, memory ran out: free some, or use a smaller model"
            if code == -9
            else "try again",
        )
    meaning = exits.BY_CODE.get(code, exits.BY_CODE[exits.Exit.UNEXPECTED])
    own = answer.get("error") if isinstance(answer, dict) else None
    if isinstance(own, dict):
        return terminal.Failure(
            own.get("message") or meaning.meaning, own.get("where", ""), own.get("hint") or meaning.hint
        )
    line = next((line for line in reversed(said.splitlines()) if line.strip()), "")
    if FIX_MARK in line:
        message, _, hint = line.partition(FIX_MARK)
        return terminal.Failure(message, hint=hint)
    if code not in exits.BY_CODE or code == exits.Exit.UNEXPECTED:
        # A stranger's last words: the whole is for those who ask for it.
        hint = "set TOPCOAT_DEBUG=1 and try again to see all that it wrote"
        return terminal.Failure(f"{who} failed: {line[:300] or f'exit code {code}'}", hint=hint)
    return terminal.Failure(meaning.meaning, hint=meaning.hint)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
