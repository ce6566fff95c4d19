"""Questions to models on this machine: the trainer reads every byte of a version again before it answers.

Only says which version is meant, and what it was taught; one process answers all.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydantic

from topcoat.api import dataset, finetunejob, report
from topcoat.cli import local_place, place, sealed, store, terminal, trainer_process

Answer = dict[str, Any]
Request = dict[str, Any]
PREPARED = "prepared.json"


def answers(
    here: local_place.LocalPlace, job: finetunejob.FineTuneJob, text: str, who: Sequence[place.Asked]
) -> list[Answer]:
    """What each of them answers."""
    requests = [
        _base(here.store, job, text) if one.base else _tuned(sealed.served(here, job, one.version), text) for one in who
    ]
    found: list[Answer] = trainer_process.call_each("ask", requests)
    return found


def _tuned(found: sealed.Sealed, text: str) -> Request:
    """What a version is asked."""
    return {"version": str(found.folder.resolve()), "digest": found.digest, **_request(found.job, text)}


def _base(here: store.Store, job: finetunejob.FineTuneJob, text: str) -> Request:
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
