"""What the kernel says about one process. Reads only."""

from __future__ import annotations

import os
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.25
QUIET_SECONDS = 3.0
# Of one core: renewing a Lease and answering probes stays far below, working through a list far above.
QUIET_SHARE = 0.02


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def peak_mib(pid: int) -> float:
    return _mib(pid, "VmHWM")


def resident_mib(pid: int) -> float:
    return _mib(pid, "VmRSS")


def _mib(pid: int, name: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) / 1024


def quiet(pid: int, longest_seconds: float) -> tuple[float, float]:
    """Waits until the process hardly works any more. Returns when that began, and the CPU seconds it had used."""
    deadline = time.monotonic() + longest_seconds
    seen = [(time.monotonic(), cpu_seconds(pid))]
    while True:
        time.sleep(POLL_SECONDS)
        seen.append((time.monotonic(), cpu_seconds(pid)))
        then = [one for one in seen if seen[-1][0] - one[0] >= QUIET_SECONDS]
        if then and seen[-1][1] - then[-1][1] <= QUIET_SHARE * QUIET_SECONDS:
            return then[-1]
        if time.monotonic() > deadline:
            raise RuntimeError(f"process {pid} is not quiet after {longest_seconds:.0f} s")
