"""Several ranks of one run on one machine, each in a forked child, as launch starts them. For tests only."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from tests.support import runs, sealing


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def become(rank: int, size: int, port: int) -> None:
    """What launch tells a rank."""
    told = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in told.items()}, MASTER_ADDR="127.0.0.1")


def forked(work: Callable[[int], object], size: int = 2) -> list[int]:
    """Runs `work(rank)` in so many children; their exit codes, by rank."""
    port = free_port()

    def one(rank: int) -> Callable[[], None]:
        def child() -> None:
            become(rank, size, port)
            work(rank)

        return child

    return ends([sealing.forked(one(rank)) for rank in range(size)])


def carried_out(path: Path, before: Callable[[int], object] = lambda _: None, size: int = 2) -> list[int]:
    """A whole run by so many ranks, each after `before(rank)`; their exit codes."""
    return ends(begun(path, before, size))


def begun(path: Path, before: Callable[[int], object] = lambda _: None, size: int = 2) -> list[int]:
    port = free_port()

    def one(rank: int) -> Callable[[], None]:
        def child() -> None:
            become(rank, size, port)
            before(rank)

        return child

    return [runs.begun(path, one(rank)) for rank in range(size)]


def ends(children: list[int], seconds: float = 120.0) -> list[int]:
    """Exit codes of all; one that hangs is an error."""
    codes: dict[int, int] = {}
    deadline = time.monotonic() + seconds
    while len(codes) < len(children):
        for child in children:
            done, status = (0, 0) if child in codes else os.waitpid(child, os.WNOHANG)
            if done:
                codes[child] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            for child in children:
                if child not in codes:
                    os.kill(child, 9)
                    os.waitpid(child, 0)
            raise AssertionError(f"ranks hang: {codes}")
        time.sleep(0.02)
    return [codes[child] for child in children]
