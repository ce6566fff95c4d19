"""termination.json: the last word of a trainer process, at most 4 KiB, never a row's text. Never imports torch.

Written whatever happens: a little space is set aside at the start, so that even a full disk can be reported.
"""

from __future__ import annotations

import traceback
from pathlib import Path

from topcoat.api.exits import BY_CODE
from topcoat.api.report import EvaluationReport, EvaluationSummary, Outcome, Termination
from topcoat_trainer import files
from topcoat_trainer.errors import OutOfMemory, StorageFull, TrainerError

NAME = "termination.json"
RESERVE = ".reserve"
LIMIT_BYTES = 4096
RESERVE_BYTES = 16 * LIMIT_BYTES


def reserve(folder: Path) -> None:
    """Sets space aside; gone again in `write`."""
    files.write_bytes(folder / RESERVE, bytes(RESERVE_BYTES))


def write(folder: Path, word: Termination) -> None:
    (folder / RESERVE).unlink(missing_ok=True)
    files.write_json(folder / NAME, capped(word).as_json())


def capped(word: Termination) -> Termination:
    """The same, short enough: reasons go first, then the ends of message and hint."""
    while len(files.json_bytes(word.as_json())) > LIMIT_BYTES:
        if word.evaluation is not None and word.evaluation.reasons:
            fewer = word.evaluation.model_copy(update={"reasons": word.evaluation.reasons[:-1]})
            word = word.model_copy(update={"evaluation": fewer})
        else:
            # Letters beyond ASCII are several bytes each, so the limits on letters alone are not enough.
            shorter = {"message": word.message[: len(word.message) // 2], "hint": word.hint[: len(word.hint) // 2]}
            word = word.model_copy(update=shorter)
    return word


def sealed(version: str, digest: str, report: EvaluationReport, resumed_from_step: int | None = None) -> Termination:
    """A version is sealed. Whether it is served is not the trainer's to say."""
    summary = EvaluationSummary(
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
    return Termination(
        outcome=Outcome.SEALED,
        version=version,
        digest=digest,
        evaluation=summary,
        resumed_from_step=resumed_from_step,
    )


def failed(error: TrainerError) -> Termination:
    meaning = BY_CODE[error.exit_code.value]
    place = f"{error.where}: " if error.where else ""
    return Termination(
        outcome=Outcome.FAILED,
        exit_code=error.exit_code.value,
        category=meaning.category,
        reason=meaning.reason,
        message=f"{place}{error.message}"[:1024],
        hint=error.hint[:512],
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
