"""Free ports on 127.0.0.1 for the programs of a control plane, each taken by one process of this user at a time."""

from __future__ import annotations

import fcntl
import os
import random
import socket

from tests.support.kube import folder

# Below what the kernel gives to outgoing connections, so that no connection sits on a port that is to be bound again.
FIRST, LAST = 20_000, 32_000


def reserve() -> int:
    """A port that nobody listens on. It stays ours until this process ends, also while its program restarts."""
    locks = folder.cache() / "ports"
    locks.mkdir(exist_ok=True)
    for _ in range(200):
        number = random.randint(FIRST, LAST)
        # Never closed by us: the lock ends with the process.
        handle = os.open(locks / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", number))
        except OSError:
            os.close(handle)
            continue
        return number
    raise OSError(f"no free port between {FIRST} and {LAST}")
