"""Numbers as people read them, and as status may hold them. Never raises, whatever a float is."""

from __future__ import annotations

import math
from datetime import UTC, datetime

LARGEST = 999_999_999.0


def clip(text: str, length: int = 1024) -> str:
    """The text, cut to what status may hold."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def time(moment: datetime) -> str:
    """RFC 3339 in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> datetime | None:
    """The other way round; None when it is no time."""
    try:
        parsed = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def score(value: float) -> str:
    """A decimal string with four places; what is not a number becomes the largest one."""
    if not math.isfinite(value):
        value = -LARGEST if value < 0 else LARGEST
    return f"{max(-LARGEST, min(LARGEST, value)):.4f}"


def short_score(value: float) -> str:
    return f"{value:.2f}" if abs(value) < LARGEST else "∞"


def duration(seconds: float) -> str:
    """3m10s; two units at most."""
    whole = int(seconds) if math.isfinite(seconds) and seconds > 0 else 0
    units = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    said = [f"{count}{unit}" for count, unit in units if count]
    return "".join(said[:2]) or "0s"


def size(count: int) -> str:
    """1.2Gi; one place above Mi."""
    if count < 1 << 20:
        return f"{max(0, count) >> 10}Ki"
    return f"{count / (1 << 20):.0f}Mi" if count < 1 << 30 else f"{count / (1 << 30):.1f}Gi"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def whole(value: float) -> int:
    """A count that is never negative, whatever a float is."""
    return max(0, int(value)) if math.isfinite(value) else 0
