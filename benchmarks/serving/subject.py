"""Whoever is measured: made in a process of its own, kept there, and asked for round after round."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from benchmarks.serving.figures import Answered, Figures, figures
from benchmarks.serving.load import Request, requests

CONCURRENCY = 16
WARM_UP_REQUESTS = 4


@dataclass(frozen=True, slots=True)
class Order:
    """What a subject is made of. `folders`: the versions' own."""

    model: Path
    folders: tuple[Path, ...]
    threads: int


class Subject(Protocol):
    """Answers requests, at most CONCURRENCY at once."""

    def __init__(self, order: Order) -> None: ...

    def answer(self, asked: Sequence[Request]) -> list[Answered]: ...

    def memory_mib(self) -> float: ...

    def close(self) -> None: ...


class Guest:
    """A subject in its own process."""

    def __init__(self, name: str, kind: Callable[[Order], Subject], order: Order) -> None:
        self.name = name
        self.versions = len(order.folders)
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_live, args=(kind, order, other), daemon=True)
        self._process.start()
        other.close()
        self._said()

    def round(self, load: str, count: int, seed: int) -> Figures:
        self._pipe.send(requests(load, count, self.versions, seed))
        answers, seconds, memory = self._said()
        return figures((self.name, self.versions, load), answers, seconds, memory)

    def _said(self) -> tuple[list[Answered], float, float]:
        found = self._pipe.recv()
        if isinstance(found, str):
            raise SystemExit(f"{self.name} failed:\n{found}")
        answers, seconds, memory = found
        return answers, seconds, memory

    def close(self) -> None:
        self._pipe.send(None)
        self._process.join(20)


def _live(kind: Callable[[Order], Subject], order: Order, pipe: Connection) -> None:
    """The other process: until it is told to end."""
    os.environ["OMP_NUM_THREADS"] = str(order.threads)
    try:
        subject = kind(order)
        subject.answer(requests("even", WARM_UP_REQUESTS, len(order.folders), -1))
        pipe.send(([], 0.0, subject.memory_mib()))
        while (asked := pipe.recv()) is not None:
            started = time.perf_counter()
            answers = subject.answer(asked)
            pipe.send((answers, time.perf_counter() - started, subject.memory_mib()))
        subject.close()
    except Exception:  # noqa: BLE001 (told to whoever measures)
        pipe.send(traceback.format_exc())
