"""What a test started ends with the test, even if that is killed and cannot clean up. For tests only."""

from __future__ import annotations

import subprocess
import sys

# It looks for its parent instead of waiting for the end of a pipe: a forked child would hold that open.
WATCH = """
import os, signal, sys, time
parent, group = map(int, sys.argv[1:])
while os.getppid() == parent:
    time.sleep(0.2)
try:
    os.killpg(group, signal.SIGKILL)
except ProcessLookupError:
    pass
"""


def guard(group: int, parent: int) -> subprocess.Popen[bytes]:
    """A process that kills a process group, stopped ones too, once `parent`, who called this, is gone.

    To be killed before the group is ended in another way: its number may come again.
    """
    return subprocess.Popen([sys.executable, "-I", "-S", "-c", WATCH, str(parent), str(group)], start_new_session=True)
