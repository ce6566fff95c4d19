"""The last word of a trainer process, at most 4 KiB, never a row's text: termination.json, and Kubernetes' own file.

Written whatever happens: a little space is set aside at the start, so that even a full disk can be reported. Never
imports torch.
"""

from __future__ import annotations

import json
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path

from topcoat.api.exits import BY_CODE
from topcoat.api.report import EvaluationReport, EvaluationSummary, Outcome, PrepareReport, Termination
from topcoat_trainer import files
from topcoat_trainer.errors import Ended, OutOfMemory, StorageFull, TrainerError

logger = logging.getLogger(__name__)

NAME = "termination.json"
RESERVE = ".reserve"
LIMIT_BYTES = 4096
RESERVE_BYTES = 16 * LIMIT_BYTES


def reserve(folder: Path) -> None:
    """Sets space aside; gone again in `write`."""
    files.write_bytes(folder / RESERVE, bytes(RESERVE_BYTES))


def write(folder: Path, word: Termination) -> None:
    (folder / RESERVE).unlink(missing_ok=True)
    files.write_bytes(folder / NAME, spelled(capped(word)))


def tell(path: Path, word: Termination) -> None:
    """Writes the word into a file that is there, in place: its folder may be read-only. Never raises."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with os.fdopen(handle, "wb") as file:
            file.write(spelled(capped(word)))
    except OSError as error:
        logger.warning("the last word could not be written to %s: %s", path, error)


def spelled(word: Termination) -> bytes:
    """As short as JSON can be: every byte of 4 KiB counts."""
    text = json.dumps(word.as_json(), ensure_ascii=False, separators=(",", ":"))
    return files.whole_letters(text).encode()


def capped(word: Termination) -> Termination:
    """The same, short enough: what is least missed goes first."""
    shorter = _shorter(word)
    while len(spelled(word)) > LIMIT_BYTES:
        word = next(shorter)
    return word


def _shorter(word: Termination) -> Iterator[Termination]:
    """Ever shorter forms: without parts of the memory, prepare's notes, reasons, older versions, the ends of message
    and hint.
    """
    if word.prepared is not None and word.prepared.estimate.memory:
        estimate = word.prepared.estimate.model_copy(update={"memory": []})
        word = word.model_copy(update={"prepared": word.prepared.model_copy(update={"estimate": estimate})})
        yield word
    if word.prepared is not None and word.prepared.dataset.notes:
        card = word.prepared.dataset.model_copy(update={"notes": []})
        word = word.model_copy(update={"prepared": word.prepared.model_copy(update={"dataset": card})})
        yield word
    while word.evaluation is not None and word.evaluation.reasons:
        fewer = word.evaluation.model_copy(update={"reasons": word.evaluation.reasons[:-1]})
        word = word.model_copy(update={"evaluation": fewer})
        yield word
    while word.versions:
        word = word.model_copy(update={"versions": word.versions[:-1]})
        yield word
    while True:
        # Letters beyond ASCII are several bytes each, so the limits on letters alone are not enough.
        halves = {"message": word.message[: len(word.message) // 2], "hint": word.hint[: len(word.hint) // 2]}
        word = word.model_copy(update=halves)
        yield word


def prepared(report: PrepareReport) -> Termination:
    """All is ready. The system prompt and the labels are the tenant's own: no message of a pod may hold them."""
    card = report.dataset.model_copy(update={"labels": {}, "system_prompt": None})
    return Termination(outcome=Outcome.PREPARED, prepared=report.model_copy(update={"dataset": card}))


def sealed(version: str, digest: str, report: EvaluationReport, resumed_from_step: int | None = None) -> Termination:
    """A version is sealed. Whether it is served is not the trainer's to say."""
    return Termination(
        outcome=Outcome.SEALED,
        version=version,
        digest=digest,
        evaluation=summary(report),
        resumed_from_step=resumed_from_step,
    )


def summary(report: EvaluationReport) -> EvaluationSummary:
    """The verdict's numbers."""
    return EvaluationSummary(
        metric=report.metric,
        base=report.base,
        serving=report.serving,
        candidate=report.candidate,
        delta=report.delta,
        lower_bound=report.lower_bound,
        samples=report.samples,
        verdict=report.verdict,
        reasons=report.reasons,
    )


def failed(error: TrainerError) -> Termination:
    if isinstance(error, Ended):
        return error.word
    meaning = BY_CODE[error.exit_code.value]
    place = f"{error.where}: " if error.where else ""
    return Termination(
        outcome=Outcome.FAILED,
        exit_code=error.exit_code.value,
        category=meaning.category,
        reason=meaning.reason,
        message=files.whole_letters(f"{place}{error.message}")[:1024],
        hint=files.whole_letters(error.hint)[:512],
    )


def known(error: BaseException) -> TrainerError:
    """Any exception as one of ours. A stranger's own words are left out: they may quote a row."""
    if isinstance(error, TrainerError):
        return error
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfMemory("memory ran out")
    if isinstance(error, OSError) and error.errno in files.FULL:
        return StorageFull("no space left to write this file", where=str(error.filename or ""))
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "an unknown place"
    return TrainerError(f"{type(error).__name__} at {place}")
