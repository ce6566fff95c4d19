"""Exit codes of trainer and command line, failure categories, and what follows from each: one table each.

Pure data; decides nothing (plan/outcome.py reads it).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


class Category(StrEnum):
    """Who or what a failure is about: `status.failure.category`."""

    USER_INPUT = "UserInput"
    DATA = "Data"
    OUT_OF_MEMORY = "OutOfMemory"
    PREEMPTED = "Preempted"
    INFRASTRUCTURE = "Infrastructure"
    DEADLINE = "Deadline"
    BUDGET = "Budget"
    DIVERGED = "Diverged"


class Retry(StrEnum):
    """What the next attempt does, if there is one."""

    NEVER = "Never"
    RESUME = "Resume"
    SMALLER_MICRO_BATCH = "SmallerMicroBatch"


class Exit(IntEnum):
    """Exit codes of the trainer's processes. 0 alone proves nothing: a sealed manifest does."""

    DONE = 0
    UNEXPECTED = 1
    USER_INPUT = 10
    DATA = 11
    BASE_MODEL = 12
    OUT_OF_MEMORY = 13
    DIVERGED = 14
    STORAGE_FULL = 15
    CORRUPT = 16
    UNREACHABLE = 17
    BUDGET = 18
    CHECKPOINTED = 19
    PEER_LOST = 20


@dataclass(frozen=True, slots=True)
class ExitMeaning:
    """One row of the table: what an exit code means, its category, condition reason, retry rule and hint."""

    code: Exit
    category: Category
    reason: str
    retry: Retry
    meaning: str
    hint: str


MEANINGS: tuple[ExitMeaning, ...] = (
    ExitMeaning(
        Exit.UNEXPECTED,
        Category.INFRASTRUCTURE,
        "TrainerFailed",
        Retry.RESUME,
        "the trainer ended for a reason it does not know",
        "read the run's log; if it repeats, report it with the log's last lines",
    ),
    ExitMeaning(
        Exit.USER_INPUT,
        Category.USER_INPUT,
        "InvalidSpec",
        Retry.NEVER,
        "the manifest asks for something that cannot be done",
        "change the field that the message names and apply again",
    ),
    ExitMeaning(
        Exit.DATA,
        Category.DATA,
        "DatasetInvalid",
        Retry.NEVER,
        "the data set has rows that cannot be used",
        "mend the rows that the message names; `topcoat doctor data FILE` lists them all",
    ),
    ExitMeaning(
        Exit.BASE_MODEL,
        Category.USER_INPUT,
        "BaseModelRefused",
        Retry.NEVER,
        "the base model is missing, incomplete or not safe to load",
        "use a model stored as safetensors and JSON, complete and with its tokenizer",
    ),
    ExitMeaning(
        Exit.OUT_OF_MEMORY,
        Category.OUT_OF_MEMORY,
        "OutOfMemory",
        Retry.SMALLER_MICRO_BATCH,
        "memory ran out",
        "lower training.maxSequenceLength or microBatchSize, or ask for more memory in trainer.resources",
    ),
    ExitMeaning(
        Exit.DIVERGED,
        Category.DIVERGED,
        "Diverged",
        Retry.NEVER,
        "loss, gradients or weights stopped being finite, or the adapter stayed zero",
        "lower training.learningRate or raise training.warmupRatio",
    ),
    ExitMeaning(
        Exit.STORAGE_FULL,
        Category.INFRASTRUCTURE,
        "StorageFull",
        Retry.RESUME,
        "the volume is full",
        "free space or enlarge the volume; the last checkpoint and all versions are intact",
    ),
    ExitMeaning(
        Exit.CORRUPT,
        Category.INFRASTRUCTURE,
        "FileCorrupt",
        Retry.NEVER,
        "a file does not match its recorded digest",
        "restore the file that the message names from a back-up, or serve another version",
    ),
    ExitMeaning(
        Exit.UNREACHABLE,
        Category.INFRASTRUCTURE,
        "SourceUnreachable",
        Retry.RESUME,
        "a model or data source could not be reached",
        "check the address, the credentials and the network from the prepare pod",
    ),
    ExitMeaning(
        Exit.BUDGET,
        Category.BUDGET,
        "BudgetExceeded",
        Retry.NEVER,
        "budget.maxGPUHours is used up; the run stopped at a checkpoint",
        "raise budget.maxGPUHours to go on from the checkpoint",
    ),
    ExitMeaning(
        Exit.CHECKPOINTED,
        Category.PREEMPTED,
        "Checkpointed",
        Retry.RESUME,
        "the run was asked to stop and saved a checkpoint first",
        "it goes on from the checkpoint with the next attempt",
    ),
    ExitMeaning(
        Exit.PEER_LOST,
        Category.INFRASTRUCTURE,
        "PeerLost",
        Retry.RESUME,
        "another process or pod of the run is gone",
        "look at the run's other pods; it goes on from the checkpoint with the next attempt",
    ),
)

BY_CODE: dict[int, ExitMeaning] = {meaning.code.value: meaning for meaning in MEANINGS}


class CliExit(IntEnum):
    """Exit codes of `topcoat run` and `topcoat apply --watch`, for CI to gate on."""

    PROMOTED = 0
    ERROR = 1
    REJECTED = 2
    INCONCLUSIVE = 3
    INTERRUPTED = 4
