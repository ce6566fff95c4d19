"""A program of the cluster as a process of its own: started, recorded in a file, found again by that record after a
crash, ended. Never looks for a process by name."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

POLL_SECONDS = 0.05


class NotReady(Exception):
    """Something did not come up in time; the message carries the last lines of its log."""


@dataclass
class Program:
    """One program of a cluster. `command` is kept, so that it can be started again after it was killed.

    `forks`: the command enters a process namespace, so the program itself is the command's only child.
    """

    name: str
    folder: Path
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    forks: bool = False
    _running: subprocess.Popen[bytes] | None = None
    _pid: int = 0

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def record(self) -> Path:
        return self.folder / "pids" / self.name

    @property
    def pid(self) -> int:
        if not self.alive or self._running is None:
            raise NotReady(f"{self.name} is not running; its log ends:\n{self.last_lines()}")
        return self._pid

    @property
    def alive(self) -> bool:
        return self._running is not None and self._running.poll() is None

    @property
    def ended(self) -> bool:
        """It was started, and runs no more."""
        return self._running is not None and not self.alive

    def start(self) -> None:
        """Starts the program in a session of its own, without this process's environment (proxies, configurations)."""
        for path in (self.log, self.record):
            path.parent.mkdir(exist_ok=True)
        environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder), **self.environment}
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._pid = wrapper = self._running.pid
        if self.forks:
            wait_until(f"the child of {self.name}", lambda: bool(children(wrapper)), [self])
            self._pid = children(wrapper)[0]
        self.record.write_text(f"{self._pid} {start_time(self._pid)}")

    def stop(self, grace_seconds: float = 20) -> None:
        """Returns when the process is gone, so that its port is free."""
        if self._running is not None:
            end_recorded(self.record, grace_seconds)
            self._running.wait(timeout=grace_seconds)

    def kill(self) -> None:
        """As a crash would: no time to say goodbye. Another thread may start it again as soon as it is gone."""
        if self._running is not None:
            pid, running = self.pid, self._running
            self.record.unlink(missing_ok=True)
            os.kill(pid, signal.SIGKILL)
            running.wait(timeout=20)

    def bury(self) -> None:
        """After its end by the record: lets the kernel forget the process."""
        if self._running is not None:
            self._running.wait(timeout=20)

    def last_lines(self, count: int = 15) -> str:
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])


def start_time(pid: int) -> str:
    """When the kernel started the process, in its own ticks: with the number it names one process for good."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "gone"
    words = stat.rpartition(")")[2].split()
    # An ended process whose parent has not asked yet.
    return "gone" if words[0] == "Z" else words[19]


def children(pid: int) -> list[int]:
    try:
        return [int(number) for number in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def end_recorded(record: Path, grace_seconds: float = 20) -> bool:
    """Ends the process that the record names, if it is still that process; whether it was. Removes the record.

    Without grace the process is killed: right where all that it could still save is thrown away.
    """
    try:
        number, started = record.read_text().split()
        handle = os.pidfd_open(int(number))
    except (OSError, ValueError):
        record.unlink(missing_ok=True)
        return False
    try:
        if start_time(int(number)) != started:
            return False
        if not (grace_seconds and _ended(handle, signal.SIGTERM, grace_seconds)):
            _ended(handle, signal.SIGKILL, 20)
        return True
    finally:
        os.close(handle)
        record.unlink(missing_ok=True)


def _ended(handle: int, number: signal.Signals, wait_seconds: float) -> bool:
    try:
        signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return True
    return bool(select.select([handle], [], [], wait_seconds)[0])


def wait_until(what: str, ready: Callable[[], bool], programs: Sequence[Program] = (), seconds: float = 60) -> None:
    """Asks again and again whether something is ready; fails at once when one of the programs it needs has ended."""
    deadline = time.monotonic() + seconds
    while not ready():
        dead = [program for program in programs if program.ended]
        if dead or time.monotonic() > deadline:
            why = f"{dead[0].name} ended" if dead else f"not after {seconds:.0f} s"
            logs = "\n".join(f"--- {program.name}\n{program.last_lines()}" for program in dead or programs)
            raise NotReady(f"{what}: {why}\n{logs}")
        time.sleep(POLL_SECONDS)
