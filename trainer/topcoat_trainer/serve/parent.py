"""Ends this process when the one that started it is gone, however that came: then the pipe between them ends.

Nothing is ever sent through the pipe. For a server that a person started; in a pod nobody needs it.
"""

from __future__ import annotations

import os
import signal
import threading
import time


def follow(pipe: int, grace_seconds: float) -> None:
    """From now on: SIGTERM to ourselves at the end of the pipe, and after the grace an end without any order."""
    threading.Thread(target=_follow, args=(pipe, grace_seconds), daemon=True).start()


def _follow(pipe: int, grace_seconds: float) -> None:
    # Not through sys.stdin: a thread that reads there holds its lock when Python ends, which is fatal.
    while os.read(pipe, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(grace_seconds)
    os._exit(1)
