"""Where activations are kept for one run: in memory, on a volume or nowhere, whichever takes the least time.

Pure and total: the figures are measured by whoever asks. Nothing is chosen that does not fit or does not save time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from topcoat.api.training import CacheMedium


@dataclass(frozen=True, slots=True)
class Bandwidth:
    """What a volume does when written and read in sequence."""

    write_bytes_per_second: float
    read_bytes_per_second: float


@dataclass(frozen=True, slots=True)
class Circumstances:
    """`memory_bytes` and `disk_bytes`: what activations may take of what is free. `prefix_seconds`: all rows through
    the frozen layers once. `held_bytes`: of the needed, what the volume has from earlier runs.
    """

    need_bytes: int
    memory_bytes: int
    disk_bytes: int
    volume: Bandwidth
    prefix_seconds: float
    epochs: float
    wish: CacheMedium = CacheMedium.AUTO
    held_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """None: the frozen layers run in every epoch."""

    medium: CacheMedium | None
    reason: str


def choice(found: Circumstances) -> Choice:
    """Memory where two take equally long."""
    again = found.epochs * found.prefix_seconds
    if not (found.need_bytes > 0 and found.epochs > 0 and 0 < again < math.inf):
        return Choice(None, "there is nothing to compute twice")
    offers = ((CacheMedium.MEMORY, _memory_seconds(found)), (CacheMedium.VOLUME, _volume_seconds(found)))
    open_ = [(seconds, medium) for medium, seconds in offers if _against(found, medium, seconds) == ""]
    if not open_:
        reasons = [_against(found, medium, seconds) for medium, seconds in offers]
        return Choice(None, f"the frozen layers run in every epoch, {_time(again)} in all: {'; '.join(reasons)}")
    seconds, medium = min(open_, key=lambda offer: offer[0])
    kept = f"{_size(found.need_bytes)} are kept {'in memory' if medium is CacheMedium.MEMORY else 'on the volume'}"
    instead = f"instead of {_time(again)} through the frozen layers in {found.epochs:g} epochs"
    beside = "" if len(open_) > 1 else "; " + "; ".join(filter(None, (_against(found, *offer) for offer in offers)))
    return Choice(medium, f"{kept}: {_time(seconds)} {instead}{beside}")


def _missing_bytes(found: Circumstances) -> int:
    return found.need_bytes - min(max(found.held_bytes, 0), found.need_bytes)


def _memory_seconds(found: Circumstances) -> float:
    return found.prefix_seconds


def _volume_seconds(found: Circumstances) -> float:
    """What is missing is computed and written, and all is read in every epoch."""
    missing = _missing_bytes(found)
    fill = found.prefix_seconds * _ratio(missing, found.need_bytes) if missing else 0.0
    write = _ratio(missing, found.volume.write_bytes_per_second) if missing else 0.0
    return fill + write + found.epochs * _ratio(found.need_bytes, found.volume.read_bytes_per_second)


def _against(found: Circumstances, medium: CacheMedium, seconds: float) -> str:
    """Why not this medium; empty if it may be."""
    again = found.epochs * found.prefix_seconds
    if found.wish not in (medium, CacheMedium.AUTO):
        return f"activationCache.medium is {found.wish.value}"
    if medium is CacheMedium.MEMORY:
        need, free, place = found.need_bytes, found.memory_bytes, "in memory"
    else:
        need, free, place = _missing_bytes(found), found.disk_bytes, "on the volume"
    if need > max(free, 0):
        return f"{_size(need)} are needed {place}, and {_size(free)} may be used"
    # Said this way round, so that no number at all (NaN) is a reason against it.
    if seconds < again:
        return ""
    if medium is CacheMedium.MEMORY:
        return "each row is read once only"
    rate = f"{_size(found.volume.read_bytes_per_second)}/s read and {_size(found.volume.write_bytes_per_second)}/s"
    return f"a volume with {rate} written takes {_time(seconds)}"


def _ratio(part: float, whole: float) -> float:
    """Infinite where it cannot be said: a volume that gives nothing never gives it all."""
    try:
        found = part / whole if whole > 0 else math.inf
    except OverflowError:
        return math.inf
    return found if found >= 0 else math.inf


def _size(size: float) -> str:
    try:
        size = float(size)
    except OverflowError:
        return "more than there is"
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
