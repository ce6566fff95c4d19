"""What a killed test leaves behind: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.guard import guard

SECONDS = 20.0
# Says which group it started, and is killed then.
TEST = """
import os, subprocess, sys, time
from tests.support.guard import guard
fork = "import os, time; os.fork(); os.write(1, b'.'); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", fork], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.read(2)
guard(child.pid, os.getpid())
if os.fork():
    print(child.pid, flush=True)
time.sleep(600)
"""


def living(group: int) -> list[str]:
    """States of the processes in a group; the dead ones that nobody has asked after do not count."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, at = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(at) == group and state != "Z":
            found.append(state)
    return found


def until(group: int, wanted: list[str]) -> None:
    deadline = time.monotonic() + SECONDS
    while living(group) != wanted:
        assert time.monotonic() < deadline, living(group)
        time.sleep(0.05)


def test_a_group_ends_with_the_killed_process_that_started_it_though_it_is_stopped() -> None:
    with subprocess.Popen([sys.executable, "-c", TEST], stdout=subprocess.PIPE, start_new_session=True) as test:
        try:
            assert test.stdout is not None
            group = int(test.stdout.readline())
            os.killpg(group, signal.SIGSTOP)
            until(group, ["T", "T"])
            # A forked child of the test lives on; that does not matter.
            test.kill()
            until(group, [])
        finally:
            os.killpg(test.pid, signal.SIGKILL)


def test_it_waits_as_long_as_its_parent_lives() -> None:
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as child:
        watching = guard(child.pid, os.getpid())
        try:
            time.sleep(1)
            assert (watching.poll(), child.poll()) == (None, None)
        finally:
            watching.kill()
            watching.wait(SECONDS)
            child.kill()
