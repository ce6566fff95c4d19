"""What came of an attempt. A sealed version is success whatever the exit code; an exit code alone never is.

Reads the table of exit codes; starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from topcoat.api import exits, finetunejob, lifecycle, names, status
from topcoat.plan import lifecycle as limits
from topcoat.plan import observed, shown
from topcoat.plan.case import Case


class Kind(StrEnum):
    """How far a run is. Lost: its attempt ended, and only the volume can tell how."""

    NOT_STARTED = "NotStarted"
    ACTIVE = "Active"
    SEALED = "Sealed"
    AGAIN = "Again"
    FAILED = "Failed"
    LOST = "Lost"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run, judged. The last four fields are of failures."""

    kind: Kind
    reason: str = ""
    message: str = ""
    failure: status.Failure | None = None
    wait_seconds: float = 0.0


def of(case: Case, spec: finetunejob.FineTuneJobSpec, run: status.RunStatus) -> Outcome:
    """Judges the newest attempt at a run."""
    attempt = case.seen.attempt
    started = attempt is not None and (attempt.run, attempt.number) == (run.number, run.attempt)
    if attempt and started and attempt.state is not observed.AttemptState.ENDED:
        return Outcome(Kind.ACTIVE)
    version = names.version_name(run.number)
    if case.usable_or_none(version):
        return Outcome(Kind.SEALED)
    if case.seen.version_or_none(version):
        return _failed(exits.Exit.CORRUPT, "FileCorrupt", case.problem_with(version))
    if attempt and started and attempt.word_lost:
        return Outcome(Kind.LOST)
    return _ended(case, spec, attempt) if attempt and started else Outcome(Kind.NOT_STARTED)


def _ended(case: Case, spec: finetunejob.FineTuneJobSpec, attempt: observed.Attempt) -> Outcome:
    code = _code(attempt)
    if code == exits.Exit.DONE:
        message = f"run {attempt.run} ended with code 0, but without a sealed version"
        return _failed(exits.Exit.UNEXPECTED, "NotSealed", message)
    late = limits.overdue(case, attempt, spec.lifecycle)
    if late:
        hint = "raise the deadline to go on from the checkpoint, or ask for less training"
        return _named(exits.Category.DEADLINE, "DeadlineExceeded", late, hint)
    meaning = exits.BY_CODE.get(code, exits.BY_CODE[exits.Exit.UNEXPECTED])
    message, hint = _said(attempt, meaning)
    failures = failures_in(attempt)
    if _never_again(meaning, spec):
        return _named(meaning.category, meaning.reason, message, hint)
    if failures > spec.lifecycle.backoff_limit:
        limit = f"lifecycle.backoffLimit {spec.lifecycle.backoff_limit}"
        text = f"{shown.plural(failures, 'attempt')} failed ({limit}); the last one: {message}"
        return _named(meaning.category, "BackoffLimitExceeded", text, hint)
    wait = 0.0 if code == exits.Exit.CHECKPOINTED else limits.wait_seconds(failures)
    due = (attempt.ended_at or case.now) + timedelta(seconds=wait)
    message = f"{message}; next attempt at {shown.time(due)}" if wait else message
    return Outcome(Kind.AGAIN, meaning.reason, message, wait_seconds=max(0.0, (due - case.now).total_seconds()))


def failures_in(attempt: observed.Attempt) -> int:
    """Attempts that failed; one that stopped at a checkpoint because it was asked to did not."""
    return sum(code != exits.Exit.CHECKPOINTED for code in attempt.exits)


def times_memory_ran_out(case: Case) -> int:
    attempt = case.seen.attempt
    return sum(code == exits.Exit.OUT_OF_MEMORY for code in attempt.exits) if attempt else 0


def _code(attempt: observed.Attempt) -> int:
    """The process's own exit code, else the one it wrote down, else the unexpected one."""
    if attempt.exit_code is not None:
        return attempt.exit_code
    return attempt.termination.exit_code if attempt.termination else exits.Exit.UNEXPECTED.value


def _never_again(meaning: exits.ExitMeaning, spec: finetunejob.FineTuneJobSpec) -> bool:
    fails_on_memory = spec.lifecycle.on_out_of_memory is lifecycle.OnOutOfMemory.FAIL
    return meaning.retry is exits.Retry.NEVER or (meaning.retry is exits.Retry.SMALLER_MICRO_BATCH and fails_on_memory)


def _said(attempt: observed.Attempt, meaning: exits.ExitMeaning) -> tuple[str, str]:
    """Message and hint: the trainer's own words where it left some."""
    last = attempt.termination
    if last is not None and last.message:
        return last.message, last.hint or meaning.hint
    if attempt.exit_code in (-9, 137):
        hint = "often the system's out-of-memory killer: lower training.microBatchSize or maxSequenceLength"
        return "the trainer was killed (signal 9) before it could say why", hint
    if attempt.exit_code is None:
        return "the trainer was gone without a last word", meaning.hint
    return f"the trainer ended with code {attempt.exit_code}: {meaning.meaning}", meaning.hint


def _failed(code: exits.Exit, reason: str, message: str) -> Outcome:
    meaning = exits.BY_CODE[code]
    return _named(meaning.category, reason, message, meaning.hint)


def _named(category: exits.Category, reason: str, message: str, hint: str) -> Outcome:
    failure = status.Failure(category=category, message=shown.clip(message), hint=shown.clip(hint))
    return Outcome(Kind.FAILED, reason, message, failure)


def remembered(reason: str, message: str, failure: status.Failure | None) -> Outcome:
    """A failure that only status remembers, because its attempt can no longer be seen."""
    meaning = next((meaning for meaning in exits.MEANINGS if meaning.reason == reason), exits.MEANINGS[0])
    known = failure or status.Failure(category=meaning.category, message=shown.clip(message), hint=meaning.hint)
    return Outcome(Kind.FAILED, reason, message, known)
