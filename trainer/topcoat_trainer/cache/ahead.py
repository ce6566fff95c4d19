"""A thread that asks the kernel for what will be read soon. Advice only: it never waits, fails or answers."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Iterator

from topcoat_trainer.cache import shard

logger = logging.getLogger(__name__)

# Requests to read ahead that may wait; more of them would come too late.
AHEAD = 8
STOP_SECONDS = 1.0


class Ahead:
    """The thread that reads ahead. It is started by the first request, and no program waits for it to end."""

    def __init__(self) -> None:
        self._requests: queue.Queue[list[shard.Place] | None] = queue.Queue(AHEAD)
        self._thread: threading.Thread | None = None

    def ask(self, places: list[shard.Place]) -> None:
        with contextlib.suppress(queue.Full, RuntimeError):  # RuntimeError: no more threads
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="read-ahead", daemon=True)
                thread.start()
                self._thread = thread
            self._requests.put_nowait(places)

    def _run(self) -> None:
        while (places := self._requests.get()) is not None:
            try:
                for reader, start, end in _stretches(places):
                    reader.will_need(start, end - start)
            except Exception:  # advice that cannot be given is none
                logger.debug("nothing is read ahead", exc_info=True)

    def stop(self) -> None:
        """Waits a little, so that no closed file is asked for; a volume that hangs does not hang the program."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Empty):
            while True:
                self._requests.get_nowait()
        self._requests.put(None)
        self._thread.join(STOP_SECONDS)
        self._thread = None


def _stretches(places: list[shard.Place]) -> Iterator[tuple[shard.Reader, int, int]]:
    """Where the places lie, in the order of the disk, neighbours as one."""
    ordered = sorted(places, key=lambda place: (place.reader.stem, place.entry.offset))
    now: tuple[shard.Reader, int, int] | None = None
    for reader, entry in ordered:
        end = entry.offset + entry.length
        if now is not None and now[0] is reader and entry.offset - now[2] < shard.ALIGN_BYTES:
            now = (reader, now[1], end)
            continue
        if now is not None:
            yield now
        now = (reader, entry.offset, end)
    if now is not None:
        yield now
