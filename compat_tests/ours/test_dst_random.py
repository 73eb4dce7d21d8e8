"""Random crontabs around changes of the clocks, against a scan that looks at every minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from hypothesis import given, settings
from hypothesis import strategies as st

from celerylite.schedules import crontab

APP: Any = SimpleNamespace(conf=SimpleNamespace(beat_cron_starting_deadline=None))
MINUTE = timedelta(minutes=1)

#: The moment (UTC) of a change, which the scan surrounds.
CHANGES = [
    ("America/New_York", "2026-03-08T07:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("Australia/Lord_Howe", "2026-04-04T15:00"),
    ("Australia/Lord_Howe", "2026-10-03T15:30"),
    ("Pacific/Chatham", "2026-04-04T14:00"),
    ("Pacific/Chatham", "2026-09-26T14:00"),
    ("Antarctica/Troll", "2026-03-29T01:00"),
    ("Antarctica/Troll", "2026-10-25T01:00"),
    ("America/Santiago", "2026-04-05T03:00"),
    ("America/Santiago", "2026-09-06T04:00"),
    ("Africa/Cairo", "2026-04-23T22:00"),
    ("Africa/Cairo", "2026-10-29T21:00"),
]


class Face(NamedTuple):
    """What clocks show at one minute, all naive local times."""

    moment: datetime
    local: datetime
    #: Skipped since the minute before, earliest first.
    skipped: list[datetime]
    #: What a clock that was not changed shows, for as long as the shift lasts.
    unchanged: datetime | None


@cache
def faces(zone: str, change: str) -> list[Face]:
    at = datetime.fromisoformat(change).replace(tzinfo=UTC)
    tz, start = ZoneInfo(zone), at - timedelta(hours=40)
    before = (at - MINUTE).astimezone(tz).utcoffset() or timedelta(0)
    shift = abs((at.astimezone(tz).utcoffset() or timedelta(0)) - before)
    assert shift, "expected the clocks to be changed at that minute"
    found, previous = [], (start - MINUTE).astimezone(tz).replace(tzinfo=None)
    for n in range(80 * 60):
        moment = start + n * MINUTE
        local = moment.astimezone(tz).replace(tzinfo=None)
        skipped = [previous + MINUTE * k for k in range(1, int((local - previous) / MINUTE))]
        old = (moment + before).replace(tzinfo=None) if at <= moment < at + shift else None
        found.append(Face(moment, local, skipped, old))
        previous = local
    return found


def matches_day(schedule: crontab, local: datetime) -> bool:
    return (
        local.month in schedule.month_of_year
        and local.day in schedule.day_of_month
        and local.isoweekday() % 7 in schedule.day_of_week
    )


def matches(schedule: crontab, local: datetime) -> bool:
    return local.minute in schedule.minute and local.hour in schedule.hour and matches_day(schedule, local)


def by_scan(schedule: crontab, clock: list[Face], rhythmic: bool) -> list[datetime]:
    found: list[datetime] = []
    seen: set[datetime] = set()
    for face in clock:
        if rhythmic:
            old = face.unchanged
            due = matches(schedule, face.local) or (
                old is not None and matches(schedule, old) and matches_day(schedule, face.local)
            )
        else:
            shown = {local for local in (face.local, *face.skipped) if matches(schedule, local)} - seen
            seen |= shown
            due = bool(shown)
        if due:
            found.append(face.moment)
    return found


def fires(schedule: crontab, clock: list[Face]) -> list[datetime]:
    found, moment = [], schedule.next_run_after(clock[0].moment - MINUTE)
    while moment <= clock[-1].moment:
        found.append(moment)
        moment = schedule.next_run_after(moment)
    return found


hours = st.sets(st.integers(0, 23), min_size=1, max_size=5)
minutes = st.sets(st.sampled_from([0, 5, 14, 15, 29, 30, 44, 45, 59]), min_size=1, max_size=4)
days = st.fixed_dictionaries(
    {},
    optional={
        "day_of_week": st.sets(st.integers(0, 6), min_size=3),
        "day_of_month": st.sets(st.integers(1, 31), min_size=20),
    },
)


@settings(max_examples=150, deadline=None)
@given(change=st.sampled_from(CHANGES), hour=hours, minute=minutes, on=days)
def test_times_of_the_day_are_those_of_the_scan(
    change: tuple[str, str], hour: set[int], minute: set[int], on: dict[str, Any]
) -> None:
    clock = faces(*change)
    schedule = crontab(minute=minute, hour=hour, **on, tz=change[0], app=APP)
    assert fires(schedule, clock) == by_scan(schedule, clock, rhythmic=False)


steps = st.sampled_from(["*", "*/2", "*/3", "*/5", "1-23/2", "3-20/4"])


@settings(max_examples=150, deadline=None)
@given(
    change=st.sampled_from(CHANGES),
    hour=st.one_of(steps, hours),
    minute=st.one_of(minutes, st.sampled_from(["*/7", "*/10", "*/20", "*/30", "3-50/9"])),
    on=days,
)
def test_rhythms_are_those_of_the_scan(
    change: tuple[str, str], hour: Any, minute: Any, on: dict[str, Any]
) -> None:
    clock = faces(*change)
    schedule = crontab(minute=minute, hour=hour, **on, tz=change[0], app=APP)
    rhythmic = isinstance(hour, str) or isinstance(minute, str)
    assert fires(schedule, clock) == by_scan(schedule, clock, rhythmic)


@settings(max_examples=100, deadline=None)
@given(change=st.sampled_from(CHANGES), hour=steps, minute=minutes, at=st.integers(0, 70 * 3600))
def test_whoever_asks_between_runs_gets_the_next_one(
    change: tuple[str, str], hour: str, minute: set[int], at: int
) -> None:
    clock = faces(*change)
    schedule = crontab(minute=minute, hour=hour, tz=change[0], app=APP)
    asked = clock[0].moment + timedelta(seconds=at)
    following = [moment for moment in fires(schedule, clock) if moment > asked]
    assert schedule.next_run_after(asked) == following[0]
