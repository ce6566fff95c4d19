"""The most memory that this process has held so far, on the machine and on its GPU. Never imports torch itself."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def memory_bytes() -> int:
    """Peak resident memory. The kernel's own mark of this program where there is one: `ru_maxrss` also counts what the
    process held before it became this program.
    """
    try:
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return int(fields["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def gpu_memory_bytes() -> int | None:
    """Peak memory that torch took on this process's GPU; None where it computes on a CPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return int(torch.cuda.max_memory_allocated())
