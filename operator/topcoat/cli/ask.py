"""`topcoat ask`: one question to the tuned model or to its base. Standard output holds the answer alone.

The trainer reads every byte of the version again before it answers; this file only says which version is meant.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import pydantic
import typer

from topcoat.api import finetunejob, report
from topcoat.cli import option, sealed, store, terminal, trainer_process

Answer = dict[str, Any]
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
    said = base_answer(here, job, text) if base else tuned_answer(sealed.served(here, job, version), text)
    if output is option.Plain.JSON:
        terminal.say(json.dumps(said, indent=2, ensure_ascii=False))
        return
    answer = str(said["answer"])
    terminal.say(terminal.clean(answer) if terminal.is_terminal() else answer)
    _aside(job.metadata.name, said, option.at(store_folder), base=base)


def tuned_answer(found: sealed.Sealed, text: str) -> Answer:
    """What a version answers."""
    request = {"version": str(found.folder.resolve()), "digest": found.entry.digest, "base": False}
    return {"version": found.entry.version, **_asked(found.job, {**request, "text": text})}


def base_answer(here: store.Store, job: finetunejob.FineTuneJob, text: str) -> Answer:
    """What the base model answers to the same prompt, before anything was trained."""
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
    request = {
        "baseModel": str(Path(prepared.base_model.path)),
        "baseModelDigest": prepared.base_model.digest,
        "base": True,
        "task": prepared.dataset.task.value,
        "labels": sorted(prepared.dataset.labels),
        "systemPrompt": prepared.dataset.system_prompt,
    }
    return {"version": None, **_asked(job, {**request, "text": text})}


def _asked(job: finetunejob.FineTuneJob, request: dict[str, Any]) -> Answer:
    limit = job.spec.evaluation.generation.max_tokens
    answer: Answer = trainer_process.call("ask", request={**request, "maxTokens": limit})
    return answer


def _aside(name: str, said: Answer, at: str, *, base: bool) -> None:
    """Beside the answer, on standard error: how sure, who answered; the next command only on a terminal."""
    who = said["version"] or "base model"
    likely = said.get("probabilities") or {}
    best = sorted(likely.items(), key=lambda row: -row[1])[:LIKELIEST]
    sure = ", ".join(f"{terminal.clean(label)} {share:.0%}" for label, share in best)
    terminal.note(f"{who}{f': {sure}' if sure else ''}")
    if terminal.is_terminal():
        other = f'topcoat compare {name} "…"' if base else f'topcoat ask {name} "…" --base'
        terminal.next_step(f"{other}{at}", "asks both" if base else "asks the base model")
