"""How fast this machine multiplies matrices of the sizes that a run has: measured in a quarter of a second, with numpy.

Torch-free, so it knows CPUs only: the speed of a GPU stays unknown here.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

MEASURED_SECONDS, PRODUCTS_AT_LEAST = 0.08, 12
# A product of many rows stands for prompts and training rows, one of few for the batch that writes answers.
MANY_ROWS, FEW_ROWS = 256, 48
# Width measured at most, and operations of one product: a longer one is no faster, and is disturbed more often.
WIDEST, LONGEST = 2048, 3e8


@dataclass(frozen=True, slots=True)
class Speed:
    """Operations per second of all processors: `many` rows at once, `thin` (as many, by a low rank), `few` rows."""

    many: float
    thin: float
    few: float


def measured(hidden: int, rank: int) -> Speed:
    """Speed of the machine's processors for a model of this width and an adapter of this rank: one core's best, times
    the cores, since what else the machine does at this moment says nothing of the run.
    """
    width = max(64, min(hidden, WIDEST))
    columns = max(rank, min(2 * width, round(LONGEST / (2 * MANY_ROWS * width))))
    cores = threads()
    few = _best(FEW_ROWS, width, columns)
    # A product of more rows is never slower, unless something disturbed it.
    many = max(few, _best(MANY_ROWS, width, columns))
    return Speed(many=cores * many, thin=cores * _best(MANY_ROWS, width, rank), few=cores * few)


def threads() -> int:
    """Threads that the trainer would use here: OMP_NUM_THREADS, else the processors that this process may use."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    return int(wish) if wish.isdecimal() and int(wish) > 0 else len(os.sched_getaffinity(0))


def _best(rows: int, inner: int, columns: int) -> float:
    """Operations per second of the fastest of many products on one core."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    left, right = np.full((rows, inner), 1.0001, np.float32), np.full((inner, columns), 1.0001, np.float32)
    made = np.empty((rows, columns), np.float32)
    fastest, until, done = float("inf"), time.perf_counter() + MEASURED_SECONDS, 0
    with threadpool_limits(limits=1):
        while time.perf_counter() < until or done < PRODUCTS_AT_LEAST:
            done += 1
            # This thread's own time: on a busy machine the clock on the wall counts the others' work, too.
            started = time.thread_time()
            np.matmul(left, right, out=made)
            fastest = min(fastest, max(1e-9, time.thread_time() - started))
    return 2 * rows * inner * columns / fastest
