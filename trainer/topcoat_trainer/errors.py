"""Every way in which the trainer says no. Each class has one exit code (topcoat.api.exits) and one next step.

TrainerError
├── UserInputError      the manifest asks for what cannot be done           exit 10
├── DataError           rows that cannot be used                            exit 11
├── BaseModelError      model missing, incomplete or unsafe                 exit 12
├── OutOfMemory         host or device memory ran out                       exit 13
├── Diverged            not finite, or nothing learnt                       exit 14
├── StorageFull         the volume is full                                  exit 15
├── Corrupt             a file differs from its recorded digest             exit 16
├── Unreachable         a source did not answer                             exit 17
├── BudgetExceeded      the GPU-hour budget is used up                      exit 18
├── Stopped             asked to stop; a checkpoint is saved                exit 19
├── PeerLost            another process of the run is gone                  exit 20
└── Ended               another process of the run said how it ended        its exit code
"""

from __future__ import annotations

from typing import ClassVar

from topcoat.api.exits import BY_CODE, Exit
from topcoat.api.report import Termination


class TrainerError(Exception):
    """What happened, where (file, row, field) and how to mend it. Never holds a row's text."""

    exit_code: ClassVar[Exit] = Exit.UNEXPECTED

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint or BY_CODE[self.exit_code.value].hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return f"{place}{self.message}. To fix it: {self.hint}"


class UserInputError(TrainerError):
    exit_code = Exit.USER_INPUT


class DataError(TrainerError):
    exit_code = Exit.DATA


class BaseModelError(TrainerError):
    exit_code = Exit.BASE_MODEL


class OutOfMemory(TrainerError):
    exit_code = Exit.OUT_OF_MEMORY


class Diverged(TrainerError):
    exit_code = Exit.DIVERGED


class StorageFull(TrainerError):
    exit_code = Exit.STORAGE_FULL


class Corrupt(TrainerError):
    exit_code = Exit.CORRUPT


class Unreachable(TrainerError):
    exit_code = Exit.UNREACHABLE


class BudgetExceeded(TrainerError):
    exit_code = Exit.BUDGET


class Stopped(TrainerError):
    exit_code = Exit.CHECKPOINTED


class PeerLost(TrainerError):
    exit_code = Exit.PEER_LOST


class Ended(TrainerError):
    """The run has ended, well or not; the last word was said by another of its processes."""

    def __init__(self, word: Termination) -> None:
        super().__init__(word.message, hint=word.hint)
        self.word = word
