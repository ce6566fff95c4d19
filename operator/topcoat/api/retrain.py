"""`retrain`: when a new run starts although the manifest did not change."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field, StringConstraints

from topcoat.api.field import Time
from topcoat.api.section import Rule, Section

Cron = Annotated[
    str,
    StringConstraints(
        pattern=r"^(@(hourly|daily|weekly|monthly|yearly)|([0-9A-Za-z*,/#?-]+ ){4}[0-9A-Za-z*,/#?-]+)$", max_length=100
    ),
]
TimeZone = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*$", max_length=64)]


class ConcurrencyPolicy(StrEnum):
    """A trigger while a run is going on."""

    FORBID = "Forbid"
    REPLACE = "Replace"
    QUEUE = "Queue"


class StartFrom(StrEnum):
    """Weights a new run starts from."""

    BASE = "Base"
    PROMOTED = "Promoted"


class OnDataChange(Section):
    """A new run when the data's digest changes."""

    poll_interval_seconds: Annotated[int, Field(ge=10, le=2_592_000)] = 300
    """How often the source is asked for its digest."""
    min_new_samples: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    """Changed or new rows needed before a run starts."""


class Retrain(Section):
    """Triggers of further runs."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.timeZone) || has(self.schedule)",
            lambda m: m.time_zone is None or m.schedule is not None,
            "retrain.timeZone needs retrain.schedule",
            "time_zone",
        ),
    )

    schedule: Cron | None = None
    """Cron line with five fields, or @daily and the like."""
    time_zone: TimeZone | None = None
    """IANA time zone of the schedule; UTC by default."""
    suspend: bool = False
    """No triggers while true."""
    concurrency_policy: ConcurrencyPolicy = ConcurrencyPolicy.FORBID
    """`Forbid` skips a trigger while a run goes on, `Replace` stops that run, `Queue` runs afterwards."""
    on_data_change: OnDataChange | None = None
    """A new run when the data changes. Local mode looks each time `topcoat run` is called."""
    on_base_model_change: bool = False
    """A new run when the catalogue's model gets a new revision."""
    start_from: StartFrom = StartFrom.BASE
    """Start from the base model, or from the version that is promoted."""
    requested_at: Time | None = None
    """Changing this asks for one run now (RFC 3339)."""
