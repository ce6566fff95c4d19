"""One thread that alone touches the model. Requests take turns, a step each; who waits, waits in a lane per model.

Knows nothing of models: it runs generators, and brings what they yield to the event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
_END = object()
JOIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Failure:
    error: BaseException


@dataclass(eq=False, slots=True)
class _Job(Generic[Item]):
    """A request's work and where its results go. A step that yields None has nothing to say."""

    lane: str
    work: Callable[[], Iterator[Item | None]]
    loop: asyncio.AbstractEventLoop
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    steps: Iterator[Item | None] | None = None
    cancelled: bool = False

    def say(self, result: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self.loop.call_soon_threadsafe(self.results.put_nowait, result)


class Worker:
    """`slots`: how many requests take turns at once; each holds a cache on the device."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._changed = threading.Condition()
        self._urgent: deque[Callable[[], None]] = deque()
        self._lanes: OrderedDict[str, deque[_Job[Any]]] = OrderedDict()
        self._running: deque[_Job[Any]] = deque()
        self._active: _Job[Any] | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

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

    async def stream(self, lane: str, work: Callable[[], Iterator[Item | None]]) -> AsyncGenerator[Item, None]:
        """What the generator yields; it is run in turns with the others, and closed when nobody listens."""
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
            return len(self._running) + (self._active is not None), sum(map(len, self._lanes.values()))

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
                    self._active = self._running.popleft() if self._running else None
            if urgent is not None:
                urgent()
            elif self._active is not None:
                more = self._step(self._active)
                with self._changed:
                    if more:
                        self._running.append(self._active)
                    self._active = None

    def _admit(self) -> None:
        """Fills the slots: from each lane in turn the request that waits longest."""
        while self._lanes and len(self._running) < self._slots:
            name, lane = self._lanes.popitem(last=False)
            self._running.append(lane.popleft())
            if lane:
                self._lanes[name] = lane

    @staticmethod
    def _step(job: _Job[Any]) -> bool:
        """One turn of a request; whether there is more to do."""
        if job.cancelled:
            if job.steps is not None and hasattr(job.steps, "close"):
                job.steps.close()
            return False
        try:
            if job.steps is None:
                job.steps = job.work()
            result = next(job.steps)
        except StopIteration:
            job.say(_END)
            return False
        except BaseException as error:  # noqa: BLE001 (one request's failure must not end the thread)
            job.say(_Failure(error))
            return False
        if result is not None:
            job.say(result)
        return True
