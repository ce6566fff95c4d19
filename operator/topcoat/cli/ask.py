"""`topcoat ask`: one question to the tuned model or to its base. Standard output holds the answer alone.

The trainer reads every byte of the version again before it answers; this file only says which version is meant.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pydantic
import typer

from topcoat.api import dataset, finetunejob, report
from topcoat.cli import option, sealed, store, terminal, trainer_process

Answer = dict[str, Any]
Request = dict[str, Any]
PREPARED = "prepared.json"
TEXT_HELP = "What to ask; - reads it from standard input."
LIKELIEST = 3


def ask(  # noqa: PLR0913 - each is an option that a person gives
    name: option.Job,
    text: Annotated[str, typer.Argument(metavar="TEXT", help=TEXT_HELP, show_default=False)],
    *,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model instead.")] = False,
    version: option.Version = None,
    output: option.Answer = option.Plain.TEXT,
    store_folder: option.Store = option.DEFAULT_STORE,
) -> None:
    """Ask the version that serves, another one (--version vN), or the base model (--base).

    Before it answers, the version's files are compared with their seal: if a byte differs, it refuses.
    """
    here = store.Store(store_folder)
    job = here.job(name)
    text = sys.stdin.read() if text == "-" else text
    if not text.strip():
        terminal.fail("there is nothing to ask", hint=f'topcoat ask {name} "your text"')
    request = base_request(here, job, text) if base else tuned_request(sealed.served(here, job, version), text)
    (said,) = answers([request])
    if output is option.Plain.JSON:
        terminal.say(json.dumps(said, indent=2, ensure_ascii=False))
        return
    words = str(said["answer"])
    terminal.say(terminal.clean(words) if terminal.is_terminal() else words)
    _aside(job.metadata.name, said, option.at(store_folder), base=base)


def tuned_request(found: sealed.Sealed, text: str) -> Request:
    """What a version is asked."""
    return {"version": str(found.folder.resolve()), "digest": found.digest, **_request(found.job, text)}


def base_request(here: store.Store, job: finetunejob.FineTuneJob, text: str) -> Request:
    """What the base model is asked: the same prompt, before anything was trained."""
    path = here.job_folder(job) / PREPARED
    if not path.is_file():
        name = job.metadata.name
        terminal.fail(
            f"the base model of {name!r} is not prepared yet", hint=f"`topcoat status {name}` says how far it is"
        )
    try:
        prepared = report.PrepareReport.model_validate_json(path.read_bytes())
    except pydantic.ValidationError:
        terminal.fail("the file cannot be read", where=str(path), hint="`topcoat run` writes it again")
    return {
        "baseModel": str(Path(prepared.base_model.path)),
        "baseModelDigest": prepared.base_model.digest,
        "base": True,
        "task": prepared.dataset.task.value,
        "labels": sorted(prepared.dataset.labels),
        "systemPrompt": prepared.dataset.system_prompt,
        "raw": prepared.dataset.format == dataset.Format.PROMPT_COMPLETION,
        **_request(job, text),
    }


def _request(job: finetunejob.FineTuneJob, text: str) -> Request:
    return {"text": text, "maxTokens": job.spec.evaluation.generation.max_tokens}


def answers(requests: Sequence[Request]) -> list[Answer]:
    """What the trainer answers, in one process."""
    found: list[Answer] = trainer_process.call_each("ask", requests)
    return found


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
