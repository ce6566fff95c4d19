"""Runs by the clock, in virtual time: each time of the schedule once, whatever the clocks of its zone do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from tests.support import worlds
from topcoat.api import report
from topcoat.api.retrain import Retrain
from topcoat.plan import intent, observed, schedule

ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe")
YEAR_START = datetime(2026, 1, 1, tzinfo=UTC)


class Clockwork(worlds.World):
    """A world whose data is other at every look, and whose time may be moved on to the next thing that is due."""

    looks: list[datetime]

    def _obey(self, action: intent.Action) -> None:
        if isinstance(action, intent.StartPrepare):
            self.looks = [*getattr(self, "looks", []), self.now]
            self.prepared = self.found()
        super()._obey(action)

    def found(self) -> report.PrepareReport:
        return worlds.prepare_report(data=f"d{len(self.looks)}")

    def until(self, end: datetime) -> None:
        """Lives on up to `end`, looking when the plan asks for it."""
        while self.now < end:
            planned = self.step()
            if not planned.actions:
                left = (end - self.now).total_seconds()
                self.now += timedelta(seconds=min(planned.look_again_seconds or left, left))


class Unchanged(Clockwork):
    """Its data stays what it is."""

    def found(self) -> report.PrepareReport:
        return worlds.prepare_report()


class Slow(Clockwork):
    """Its runs take as long as is wanted."""

    slow = False

    def _train(self, order: intent.Order) -> None:
        before = self.seen.versions
        super()._train(order)
        if self.slow and self.seen.attempt:
            going_on = replace(self.seen.attempt, state=observed.AttemptState.RUNNING, ended_at=None, exit_code=None)
            self.seen = replace(self.seen, attempt=going_on, versions=before)

    def finish(self) -> None:
        """The run that goes on ends well."""
        attempt = self.seen.attempt
        if attempt and attempt.state is observed.AttemptState.RUNNING:
            made = worlds.sealed(attempt.run, input_hash=attempt.input_hash)
            ended = replace(attempt, state=observed.AttemptState.ENDED, exit_code=0, ended_at=self.now)
            self.seen = replace(self.seen, attempt=ended, versions=(*self.seen.versions, made))
        self.settle()


def world(kind: type[Clockwork] = Clockwork, start: datetime = YEAR_START, **rules: Any) -> Clockwork:
    plain = worlds.in_cluster(retrain=rules)
    made = kind(job=plain.job, seen=plain.seen, now=start)
    made.settle()
    return made


def runs(made: worlds.World) -> int:
    assert made.status.run is not None
    return made.status.run.number


def days(zone: str, hour: int, minute: int, start: datetime, end: datetime) -> list[datetime]:
    """Each day's moment at this wall time, in UTC: what is expected, reckoned another way. In a gap: just behind it."""
    found = []
    day = start.astimezone(ZoneInfo(zone)).date() - timedelta(days=1)
    while day <= end.astimezone(ZoneInfo(zone)).date():
        wall = datetime(day.year, day.month, day.day, hour, minute, tzinfo=ZoneInfo(zone))
        moment = wall.astimezone(UTC)
        if moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) != wall.replace(tzinfo=None):  # it is in a gap
            step = moment - timedelta(hours=3)
            while step.astimezone(ZoneInfo(zone)).replace(tzinfo=None) < wall.replace(tzinfo=None):
                step += timedelta(minutes=1)
            moment = step
        if start < moment <= end:
            found.append(moment)
        day += timedelta(days=1)
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_of_nights_has_one_run_each(zone: str) -> None:
    made = world(schedule="30 2 * * *", timeZone=zone)
    assert runs(made) == 1
    started = made.now
    end = YEAR_START + timedelta(days=365)
    made.until(end)
    expected = days(zone, 2, 30, started, end)
    assert len(expected) in (364, 365)
    looks = made.looks[1:]
    assert len(looks) == len(expected)
    for looked, due in zip(looks, expected, strict=True):
        assert timedelta(0) <= looked - due < timedelta(minutes=1)
    assert runs(made) == 1 + len(expected)


def test_every_hour_comes_once_also_when_the_clocks_change() -> None:
    made = world(start=datetime(2026, 10, 24, 12, 5, tzinfo=UTC), schedule="@hourly", timeZone="Europe/Berlin")
    made.until(datetime(2026, 10, 26, 12, 5, tzinfo=UTC))
    assert runs(made) == 1 + 48


def test_three_days_of_downtime_are_caught_up_by_one_look() -> None:
    made = world(schedule="0 3 * * *")
    made.now = YEAR_START + timedelta(days=3, hours=12)
    made.settle()
    assert runs(made) == 2
    assert made.status.next_schedule_time == "2026-01-05T03:00:00Z"
    made.until(YEAR_START + timedelta(days=4, hours=2))
    assert runs(made) == 2


def test_a_clock_that_jumps_an_hour_ahead_and_back_gives_no_second_run() -> None:
    made = world(schedule="0 3 * * *")
    made.now = YEAR_START + timedelta(hours=3, minutes=10)  # it is 02:10
    made.settle()
    assert runs(made) == 2
    made.now = YEAR_START + timedelta(hours=2, minutes=11)
    made.until(YEAR_START + timedelta(hours=12))
    assert runs(made) == 2
    made.until(YEAR_START + timedelta(days=1, hours=12))
    assert runs(made) == 3


def test_what_has_not_changed_is_looked_at_and_not_trained() -> None:
    made = world(Unchanged, schedule="@daily")
    made.until(YEAR_START + timedelta(days=5, hours=1))
    assert len(made.looks) == 1 + 5
    assert runs(made) == 1


def test_nothing_comes_while_it_is_suspended_and_one_look_afterwards() -> None:
    made = world(schedule="@daily", suspend=True)
    made.until(YEAR_START + timedelta(days=3, hours=1))
    assert (runs(made), made.status.next_schedule_time) == (1, None)
    made.change(retrain={"schedule": "@daily"})
    made.settle()
    assert runs(made) == 2


@pytest.mark.parametrize(("policy", "expected"), [("Forbid", 2), ("Queue", 3), ("Replace", 3)])
def test_a_time_that_comes_while_a_run_goes_on(policy: str, expected: int) -> None:
    made = world(Slow, schedule="0 3 * * *", concurrencyPolicy=policy)
    assert isinstance(made, Slow)
    made.slow = True
    made.until(YEAR_START + timedelta(hours=4))
    assert runs(made) == 2
    made.until(YEAR_START + timedelta(days=1, hours=4))
    stopped = [action for action in made.done if isinstance(action, intent.StopTraining)]
    assert bool(stopped) == (policy == "Replace")
    made.slow = False
    made.finish()
    assert runs(made) == expected
    assert len(made.looks) == expected
    made.until(YEAR_START + timedelta(days=2, hours=4))
    assert runs(made) == expected + 1


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ({"schedule": "0 0 30 2 *"}, "cannot be read as a cron line"),
        ({"schedule": "0 0 * * 9"}, "cannot be read as a cron line"),
        ({"schedule": "61 * * * *"}, "cannot be read as a cron line"),
        ({"schedule": "0 0 ? * *"}, "cannot be read as a cron line"),
        ({"schedule": "@daily", "timeZone": "Mars/Olympus"}, "no time zone that is known here"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_and_says_how_to_mend_it(rules: dict[str, str], said: str) -> None:
    made = worlds.in_cluster(retrain=rules)
    made.settle()
    assert made.condition("Stalled") == ("True", "ScheduleInvalid")
    assert made.status.failure is not None
    assert said in made.status.failure.message
    assert next(iter(rules.values())) in made.status.failure.message or rules["timeZone"] in made.status.failure.message
    assert not made.done


def test_names_and_fields_mean_the_same() -> None:
    now = datetime(2026, 5, 6, 7, 8, tzinfo=UTC)
    for name, line in schedule.NAMES.items():
        assert schedule.after(Retrain(schedule=name), now) == schedule.after(Retrain(schedule=line), now)
    assert schedule.after(Retrain(schedule="@weekly"), now) == datetime(2026, 5, 10, tzinfo=UTC)
    assert schedule.after(Retrain(), now) is None
