"""Starts one pod's processes of a run: `python -m topcoat_trainer.launch --run-file F`, with torchrun's PET_*.

Its exit code is the trainer's: Kubernetes decides by it, and torchrun's own is 1 whatever happened. Without torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from topcoat.api.exits import Exit

# The first process writes the last word; the others have this long to end after it, and this long after SIGTERM.
GRACE_SECONDS = 30.0
KILL_SECONDS = 15.0
LOOK_SECONDS = 0.1
Command = Callable[[int], list[str]]


@dataclass(frozen=True, slots=True)
class Place:
    """One pod among the pods of the run, and how many processes it has."""

    nodes: int
    node: int
    processes: int
    address: str
    port: int

    def environment(self, local_rank: int) -> dict[str, str]:
        """What torch.distributed wants to know."""
        return {
            "RANK": str(self.node * self.processes + local_rank),
            "WORLD_SIZE": str(self.nodes * self.processes),
            "LOCAL_RANK": str(local_rank),
            "LOCAL_WORLD_SIZE": str(self.processes),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def place(environment: Mapping[str, str] = os.environ) -> Place:
    """As torchrun reads it. One pod needs no address: its processes find each other on any free port."""

    def number(name: str, default: int) -> int:
        text = environment.get(name, "") or str(default)
        if not text.isdecimal():
            raise SystemExit(f"{name} is {text!r}, not a number")
        return int(text)

    nodes = number("PET_NNODES", 1)
    return Place(
        nodes=nodes,
        node=number("PET_NODE_RANK", 0),
        processes=number("PET_NPROC_PER_NODE", 1),
        address=environment.get("PET_MASTER_ADDR", "127.0.0.1"),
        port=number("PET_MASTER_PORT", 29500 if nodes > 1 else _free_port()),
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@dataclass(slots=True)
class Crew:
    """The processes of one pod, and in which order they ended."""

    members: list[subprocess.Popen[bytes]]
    here: Place
    ended: list[int] = field(default_factory=list)

    def forward(self, number: int, _frame: object = None) -> None:
        """The pod's signal is every process's."""
        for member in self.members:
            if member.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    member.send_signal(number)

    def wait(self, seconds: float | None = None, *, first_only: bool = False) -> bool:
        """Waits until all have ended (or only the first one); False when time is up."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            self.ended += [n for n, m in enumerate(self.members) if n not in self.ended and m.poll() is not None]
            if len(self.ended) == len(self.members) or (first_only and 0 in self.ended):
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(LOOK_SECONDS)

    def code(self) -> int:
        """The first process's own code: it speaks for all. Where it was killed, or says only that another one is lost,
        or runs in another pod, the code of whoever failed first.
        """
        codes = [_shell(self.members[number].returncode) for number in self.ended]
        if self.here.node == 0:
            own = _shell(self.members[0].returncode)
            if own != Exit.PEER_LOST:
                return own
        return next((code for code in codes if code not in (0, Exit.PEER_LOST)), max(codes))


def _shell(code: int) -> int:
    """As a shell says it: a process that a signal killed has 128 and the signal's number."""
    return code if code >= 0 else 128 - code


def carry_out(command: Command, here: Place) -> int:
    """Runs the pod's processes to their common end."""
    crew = Crew([], here)
    before = {number: signal.signal(number, crew.forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        for local_rank in range(here.processes):
            environment = {**os.environ, **here.environment(local_rank)}
            crew.members.append(subprocess.Popen(command(local_rank), env=environment))
        # Processes watch each other across pods, so the first to end here is waited for without a limit.
        crew.wait(first_only=True)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if crew.wait(GRACE_SECONDS if number == signal.SIGTERM else KILL_SECONDS):
                break
            crew.forward(number)
        crew.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return crew.code()


def main(arguments: list[str] | None = None) -> int:
    """Starts this pod's processes with the given arguments; the exit code is one of topcoat.api.exits."""
    told = sys.argv[1:] if arguments is None else arguments
    return carry_out(lambda _: [sys.executable, "-m", "topcoat_trainer.run", *told], place())


if __name__ == "__main__":
    sys.exit(main())
