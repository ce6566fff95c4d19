"""Work beside the event loop and beside the engine's thread, in a thread that ends with the work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


async def aside(work: Callable[[], Result]) -> Result:
    """A thread that used torch once and lives on, as `asyncio.to_thread` has it, makes the engine a third slower on a
    CPU: it keeps OpenMP threads of its own, and with more of them than processors all of them sleep between products.
    """
    thread = ThreadPoolExecutor(1, "aside")
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
    finally:
        thread.shutdown(wait=False)
