"""`retrain.schedule`: at which times of the clock the sources are looked at again. What changed by then is a new run.

Nothing is remembered for it: when the sources were looked at last is known, so the next time follows. However long
nobody looked, one look catches up; a clock that jumps forwards and back gives no second one. Times are those of cron on
Debian (cronsim): in the gap of a spring night a time is moved behind it, in the doubled hour of autumn it comes once.
"""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from topcoat.api.retrain import ConcurrencyPolicy, Retrain
from topcoat.plan import shown
from topcoat.plan.case import Case

NAMES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}


def problem(rules: Retrain) -> str:
    """What is wrong with the schedule, and what to do; empty if nothing is."""
    if rules.schedule is None:
        return ""
    try:
        _zone(rules)
    except (OSError, ValueError, KeyError):  # KeyError is how zoneinfo says that it does not know a name
        remedy = "use an IANA name such as Europe/Berlin, or leave it out for UTC"
        return f"retrain.timeZone {rules.time_zone!r} is no time zone that is known here; {remedy}"
    remedy = "use five fields: minute, hour, day of the month, month, day of the week"
    try:
        never = after(rules, datetime(2001, 1, 1, tzinfo=UTC)) is None
    except CronSimError as error:
        return f"retrain.schedule {rules.schedule!r} cannot be read as a cron line ({error}); {remedy}"
    return f"retrain.schedule {rules.schedule!r} never comes; {remedy}" if never else ""


def after(rules: Retrain, moment: datetime) -> datetime | None:
    """The first time of the schedule behind `moment`, in UTC; None: there is none. Only for one without a `problem`, as
    every manifest is that was not refused.
    """
    if rules.schedule is None:
        return None
    line = NAMES.get(rules.schedule, rules.schedule)
    found = next(CronSim(line, moment.astimezone(_zone(rules))), None)
    return None if found is None else found.astimezone(UTC)


def _zone(rules: Retrain) -> ZoneInfo:
    return ZoneInfo(rules.time_zone or "UTC")


def due_or_none(case: Case, rules: Retrain, looked_at: datetime) -> datetime | None:
    """When the sources are to be looked at again, which may be past; they were looked at last at `looked_at`."""
    if rules.suspend:
        return None
    if case.active_run and rules.concurrency_policy is not ConcurrencyPolicy.REPLACE:
        return None
    if rules.concurrency_policy is ConcurrencyPolicy.FORBID:
        looked_at = max([looked_at, *_ends(case)])  # what came while the run went on was skipped
    return after(rules, looked_at)


def _ends(case: Case) -> list[datetime]:
    """When the last run ended, as status knows it or as it is seen."""
    run, attempt = case.before.run, case.seen.attempt
    told = shown.moment(run.completion_time) if run and run.completion_time else None
    return [moment for moment in (told, attempt.ended_at if attempt else None) if moment is not None]
