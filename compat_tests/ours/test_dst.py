"""When clocks are changed: times of the day run once per local day, rhythms go on in elapsed time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celerylite.schedules import crontab

APP: Any = SimpleNamespace(conf=SimpleNamespace(beat_cron_starting_deadline=None))

MINUTE = timedelta(minutes=1)

#: A zone and the local day on which its clocks are changed.
FORWARD = [
    ("America/New_York", date(2026, 3, 8)),
    ("Europe/Berlin", date(2026, 3, 29)),
    ("Australia/Lord_Howe", date(2026, 10, 4)),
    ("Pacific/Chatham", date(2026, 9, 27)),
    ("Antarctica/Troll", date(2026, 3, 29)),
    ("America/Santiago", date(2026, 9, 6)),
    ("Africa/Cairo", date(2026, 4, 24)),
]
BACK = [
    ("America/New_York", date(2026, 11, 1)),
    ("Europe/Berlin", date(2026, 10, 25)),
    ("Australia/Lord_Howe", date(2026, 4, 5)),
    ("Pacific/Chatham", date(2026, 4, 5)),
    ("Antarctica/Troll", date(2026, 10, 25)),
    ("America/Santiago", date(2026, 4, 4)),
    ("Africa/Cairo", date(2026, 10, 29)),
]
CHANGES = FORWARD + BACK


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def fires(schedule: crontab, start: datetime, end: datetime) -> list[datetime]:
    """The runs from `start` (included) to `end` (excluded) of a scheduler that is always in time."""
    found = []
    moment = schedule.next_run_after(start - MINUTE)
    while moment < end:
        found.append(moment)
        moment = schedule.next_run_after(moment)
    return found


def around(day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    """The five local days of which `day` is the third, in UTC."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    return (midnight - timedelta(days=2)).astimezone(UTC), (midnight + timedelta(days=3)).astimezone(UTC)


@cache
def clock_face(zone: ZoneInfo, start: datetime, end: datetime) -> list[tuple[datetime, set[datetime]]]:
    """Every minute from `start` to `end`, with the local minutes that the clocks show or pass over at it."""
    faces = []
    previous = (start - MINUTE).astimezone(zone).replace(tzinfo=None)
    for n in range(int((end - start) / MINUTE)):
        moment = start + n * MINUTE
        local = moment.astimezone(zone).replace(tzinfo=None)
        passed = {previous + MINUTE * n for n in range(1, int((local - previous) / MINUTE))}
        faces.append((moment, {local, *passed}))
        previous = local
    return faces


def times_of_day_by_scan(
    zone: ZoneInfo, start: datetime, end: datetime, times: set[tuple[int, int]]
) -> list[datetime]:
    """Look at every minute: run at the first one at which the clocks show, or have passed, a listed time."""
    found: list[datetime] = []
    seen: set[datetime] = set()
    for moment, shown in clock_face(zone, start, end):
        due = {local for local in shown if (local.hour, local.minute) in times} - seen
        if due:
            found.append(moment)
            seen |= due
    return found


@pytest.mark.parametrize(("name", "day"), CHANGES)
@pytest.mark.parametrize("hour", [0, 1, 2, 3, 23])
@pytest.mark.parametrize("minute", [0, 15, 30, 45])
def test_a_time_of_the_day_runs_once_on_every_local_day(name: str, day: date, hour: int, minute: int) -> None:
    zone = ZoneInfo(name)
    start, end = around(day, ZoneInfo(name))
    schedule = crontab(hour=hour, minute=minute, tz=zone, app=APP)
    found = fires(schedule, start, end)
    assert found == times_of_day_by_scan(zone, start, end, {(hour, minute)})
    assert len(found) == 5


@pytest.mark.parametrize(("name", "day"), CHANGES)
@pytest.mark.parametrize(
    ("hours", "minutes_of_hour"), [("1-4", "0,20,40"), ("0,2,3,23", "5,30"), ({1, 2, 3}, {59})]
)
def test_several_times_of_the_day_agree_with_a_scan(
    name: str, day: date, hours: Any, minutes_of_hour: Any
) -> None:
    zone = ZoneInfo(name)
    start, end = around(day, ZoneInfo(name))
    schedule = crontab(hour=hours, minute=minutes_of_hour, tz=zone, app=APP)
    times = {(hour, minute) for hour in schedule.hour for minute in schedule.minute}
    assert fires(schedule, start, end) == times_of_day_by_scan(zone, start, end, times)


@pytest.mark.parametrize(("name", "day"), CHANGES)
@pytest.mark.parametrize("step", [1, 2, 3, 5, 6, 10, 15, 30])
def test_a_rhythm_within_the_hour_goes_on_in_elapsed_time(name: str, day: date, step: int) -> None:
    start, end = around(day, ZoneInfo(name))
    found = fires(crontab(minute=f"*/{step}", tz=name, app=APP), start, end)
    # In zones off by half an hour the clock's hour begins within a step of 30 minutes, never of more.
    assert {later - earlier for earlier, later in pairwise(found)} == {MINUTE * step}


@pytest.mark.parametrize(("name", "day"), CHANGES)
@pytest.mark.parametrize(
    "fields", [{"minute": 0}, {"minute": 30}, {"minute": 0, "hour": "*/2"}, {"minute": "*/20"}]
)
def test_a_rhythm_never_pauses_for_longer_than_usual(name: str, day: date, fields: dict[str, Any]) -> None:
    start, end = around(day, ZoneInfo(name))
    schedule = crontab(**fields, tz=name, app=APP)
    found = fires(schedule, start, end)
    usual = found[1] - found[0]
    assert max(later - earlier for earlier, later in pairwise(found)) == usual


@pytest.mark.parametrize(
    ("name", "day"), [change for change in CHANGES if change[0] != "Australia/Lord_Howe"]
)
def test_an_hourly_entry_runs_every_60_minutes_where_clocks_shift_by_whole_hours(
    name: str, day: date
) -> None:
    start, end = around(day, ZoneInfo(name))
    found = fires(crontab(minute=7, tz=name, app=APP), start, end)
    assert {later - earlier for earlier, later in pairwise(found)} == {timedelta(hours=1)}


def test_nothing_falls_silent_in_the_hour_that_new_york_repeats() -> None:
    start, end = utc("2026-11-01T00:00-04:00"), utc("2026-11-01T03:00-05:00")
    assert end - start == timedelta(hours=4)
    counts = [
        len(fires(crontab(**fields, tz="America/New_York", app=APP), start, end))
        for fields in ({}, {"minute": "*/30"}, {"minute": 0})
    ]
    assert counts == [240, 8, 4]


def test_half_past_two_runs_once_at_the_end_of_the_gap_in_new_york() -> None:
    start, end = utc("2026-03-08T00:00-05:00"), utc("2026-03-09T00:00-04:00")
    found = fires(crontab(hour=2, minute=30, tz="America/New_York", app=APP), start, end)
    assert found == [utc("2026-03-08T03:00-04:00")]


def test_half_past_one_runs_at_its_first_occurrence_in_the_autumn_of_new_york() -> None:
    start, end = utc("2026-11-01T00:00-04:00"), utc("2026-11-02T00:00-05:00")
    found = fires(crontab(hour=1, minute=30, tz="America/New_York", app=APP), start, end)
    assert found == [utc("2026-11-01T01:30-04:00")]


def test_a_step_within_a_fixed_hour_goes_on_through_both_its_occurrences() -> None:
    start, end = utc("2026-11-01T00:00-04:00"), utc("2026-11-02T00:00-05:00")
    found = fires(crontab(hour=1, minute="*/30", tz="America/New_York", app=APP), start, end)
    assert [moment.strftime("%H:%M") for moment in found] == ["05:00", "05:30", "06:00", "06:30"]


def test_a_rhythm_keeps_to_the_days_that_its_fields_name() -> None:
    # At midnight before Friday the 30th Cairo's clocks go back to Thursday 23:00.
    zone = ZoneInfo("Africa/Cairo")
    start, end = around(date(2026, 10, 30), zone)
    found = fires(crontab(minute=0, day_of_week="fri", tz=zone, app=APP), start, end)
    assert {moment.astimezone(zone).strftime("%a") for moment in found} == {"Fri"}
    assert len(found) == 24


@pytest.mark.parametrize(("name", "day"), CHANGES)
@pytest.mark.parametrize("days", [{"day_of_week": "sun"}, {"day_of_month": 1}, {"day_of_month": "4-8"}])
def test_day_fields_are_read_on_the_local_calendar(name: str, day: date, days: dict[str, Any]) -> None:
    zone = ZoneInfo(name)
    schedule = crontab(hour=12, minute=0, **days, tz=zone, app=APP)
    first = datetime(day.year, day.month, 1, tzinfo=zone)
    found = fires(schedule, first.astimezone(UTC), (first + timedelta(days=60)).astimezone(UTC))
    noons = [first + timedelta(days=n, hours=12) for n in range(60)]
    assert found == [
        noon.astimezone(UTC)
        for noon in noons
        if noon.day in schedule.day_of_month and noon.isoweekday() % 7 in schedule.day_of_week
    ]


def test_whoever_asks_late_or_early_gets_the_same_moments() -> None:
    zone = ZoneInfo("America/New_York")
    start, end = around(date(2026, 11, 1), zone)
    schedule = crontab(hour="*", minute="10,40", tz=zone, app=APP)
    expected = fires(schedule, start, end)
    for moment, _ in clock_face(zone, start, end - timedelta(hours=1))[::7]:
        following = schedule.next_run_after(moment + timedelta(seconds=31))
        assert following == next(at for at in expected if at > moment)


def test_the_time_that_remains_is_elapsed_time() -> None:
    now = utc("2026-11-01T00:30-04:00")
    schedule = crontab(hour=3, minute=0, tz="America/New_York", app=APP, nowfun=lambda: now)
    assert schedule.remaining_estimate(now) == timedelta(hours=3, minutes=30)
    assert schedule.is_due(now) == (False, 3.5 * 3600)
