"""The time of day, in one place."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The moment, in UTC, whole seconds: as status can hold it."""
    return datetime.now(UTC).replace(microsecond=0)
