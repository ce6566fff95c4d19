"""One thread that alone touches the model. All requests that run go on together, step by step; who waits, waits in a
lane per model.

Knows nothing of models: it runs generators, brings what they yield to the event loop, and hands their wants, all at
once, to a computer.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from topcoat_trainer.serve.want import Outcome, Want

Item = TypeVar("Item")
Work = Generator[Item | Want | None, Any, None]
"""A step that yields None has nothing to say; one that yields a Want is sent what was found."""
_END = object()
JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


@dataclass(eq=False, slots=True)
class _Job(Generic[Item]):
    """A request's work and where its results go."""

    lane: str
    work: Callable[[], Work[Item]]
    loop: asyncio.AbstractEventLoop
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    steps: Work[Item] | None = None
    want: Want | None = None
    answer: Outcome = None
    cancelled: bool = False

    def say(self, result: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(self.results.put_nowait, result)


class Worker:
    """`slots`: how many requests run at once."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._compute: Callable[[Sequence[Want]], list[Outcome]] = _nobody
        self._changed = threading.Condition()
        self._urgent: deque[Callable[[], None]] = deque()
        self._lanes: OrderedDict[str, deque[_Job[Any]]] = OrderedDict()
        self._running: list[_Job[Any]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def employ(self, compute: Callable[[Sequence[Want]], list[Outcome]]) -> None:
        """Who answers wants. Said once, before the first is asked."""
        self._compute = compute

    async def call(self, function: Callable[[], Item]) -> Item:
        """Runs a function between two steps, before all that waits."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Item] = loop.create_future()

        def tell(result: Item | None, error: BaseException | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(result)  # type: ignore[arg-type]  # one is set

        def work() -> None:
            try:
                said, wrong = function(), None
            except BaseException as error:  # noqa: BLE001 (the caller is told, whatever it was)
                said, wrong = None, error
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(tell, said, wrong)

        with self._changed:
            self._urgent.append(work)
            self._changed.notify()
        return await done

    async def stream(self, lane: str, work: Callable[[], Work[Item]]) -> AsyncGenerator[Item, None]:
        """What the generator yields; it runs together with the others, and is closed when nobody listens."""
        job = _Job(lane, work, asyncio.get_running_loop())
        with self._changed:
            self._lanes.setdefault(lane, deque()).append(job)
            self._changed.notify()
        try:
            while (result := await job.results.get()) is not _END:
                if isinstance(result, _Failure):
                    raise result.error
                yield result
        finally:
            self._forget(job)

    def business(self) -> tuple[int, int]:
        """Running, waiting."""
        with self._changed:
            return len(self._running), sum(map(len, self._lanes.values()))

    def alive(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread after its present step: a thread that computes must not meet the interpreter's end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(JOIN_SECONDS)

    def _forget(self, job: _Job[Any]) -> None:
        job.cancelled = True
        with self._changed:
            lane = self._lanes.get(job.lane)
            if lane and job in lane:
                lane.remove(job)
                if not lane:
                    del self._lanes[job.lane]

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._urgent or self._running or self._lanes):
                    self._changed.wait()
                if self._closed:
                    return
                urgent = self._urgent.popleft() if self._urgent else None
                if urgent is None:
                    self._admit()
            if urgent is not None:
                urgent()
            else:
                self._round()

    def _admit(self) -> None:
        """Fills the slots: from each lane in turn the request that waits longest."""
        while self._lanes and len(self._running) < self._slots:
            name, lane = self._lanes.popitem(last=False)
            self._running.append(lane.popleft())
            if lane:
                self._lanes[name] = lane

    def _round(self) -> None:
        """One step of every request that runs."""
        ended = {id(job) for job in self._running if not self._advance(job)}
        with self._changed:
            self._running = [job for job in self._running if id(job) not in ended]
        asking = [job for job in self._running if job.want is not None]
        if not asking:
            return
        for job, outcome in zip(asking, self._outcomes([job.want for job in asking if job.want]), strict=True):
            job.answer = outcome

    def _outcomes(self, wants: Sequence[Want]) -> list[Outcome]:
        try:
            return self._compute(wants)
        except Exception as error:  # noqa: BLE001 (requests fail, the thread goes on)
            return [error for _ in wants]

    @staticmethod
    def _advance(job: _Job[Any]) -> bool:
        """Goes on with a request as far as it can now; whether there is more to do."""
        if job.cancelled:
            if job.steps is not None:
                job.steps.close()
            return False
        if job.want is not None and job.answer is None:
            return True
        try:
            result = _next(job)
        except StopIteration:
            job.say(_END)
            return False
        except BaseException as error:  # noqa: BLE001 (one request's failure must not end the thread)
            job.say(_Failure(error))
            return False
        job.want = result if isinstance(result, Want) else None
        said = result.said if isinstance(result, Want) else result
        if said is not None:
            job.say(said)
        return True


def _nobody(_: Sequence[Want]) -> list[Outcome]:
    raise RuntimeError("nobody is there to compute")


def _next(job: _Job[Any]) -> Any:
    if job.steps is None:
        job.steps = job.work()
    answer, job.answer, job.want = job.answer, None, None
    if isinstance(answer, Exception):
        return job.steps.throw(answer)
    return job.steps.send(answer)
