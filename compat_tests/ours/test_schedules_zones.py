"""What our schedules have on top of Celery's: lines of cron, and a zone of their own."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from celerylite import Celery
from celerylite.schedules import crontab, maybe_schedule, schedule

APP = Celery("zones", set_as_current=False)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def line(text: str, **options: Any) -> Any:
    return maybe_schedule(text, app=APP, **options)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("0 9 * * 1-5", crontab(minute=0, hour=9, day_of_week="mon-fri")),
        ("*/15 8-17 * * *", crontab(minute="*/15", hour="8-17")),
        ("0 0 1 jan *", crontab(minute=0, hour=0, day_of_month=1, month_of_year=1)),
        ("0 0 * * 7", crontab(minute=0, hour=0, day_of_week="sun")),
        ("5/20 * * * *", crontab(minute=[5, 25, 45])),
        ("@hourly", crontab(minute=0)),
        ("@daily", crontab(minute=0, hour=0)),
    ],
)
def test_a_line_of_cron_means_what_it_means_to_cron(text: str, same: crontab) -> None:
    assert line(text) == same


def test_either_day_field_is_enough_in_a_line_of_cron() -> None:
    first_or_monday = line("0 0 1 * mon")
    days = []
    moment = utc("2026-03-01T12:00")
    for _ in range(6):
        moment = first_or_monday.next_run_after(moment)
        days.append(moment.day)
    assert days == [2, 9, 16, 23, 30, 1]
    assert first_or_monday != crontab(minute=0, hour=0, day_of_month=1, day_of_week="mon")


UNREADABLE = [
    "",
    "every day",
    "* * * *",
    "* * * * * *",
    "61 * * * *",
    "0 0 L * *",
    "0 0 * * 1#2",
    "H * * * *",
    "R * * * *",
]


@pytest.mark.parametrize("text", UNREADABLE)
def test_a_line_that_cannot_be_read_says_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected a cron line of five fields such as '0 9") as refused:
        line(text)
    assert repr(text) in str(refused.value)


def test_a_line_of_cron_prints_as_it_was_written_and_survives_pickling() -> None:
    weekdays = maybe_schedule("0 9 * * 1-5", tz="Europe/Berlin")
    assert repr(weekdays) == "<crontab: 0 9 * * 1-5 (m/h/dM/MY/d)>"
    again = pickle.loads(pickle.dumps(weekdays))
    assert again == weekdays
    assert again.tz == ZoneInfo("Europe/Berlin")


def test_a_zone_of_its_own_goes_before_that_of_the_app() -> None:
    now = utc("2026-06-01T06:00")
    nine = crontab(hour=9, minute=0, tz="America/New_York", app=APP, nowfun=lambda: now)
    assert nine.remaining_estimate(now) == timedelta(hours=7)
    assert nine != crontab(hour=9, minute=0, nowfun=nine.nowfun)
    assert crontab(hour=9, tz="America/New_York") == crontab(hour=9, tz=ZoneInfo("America/New_York"))


def test_a_zone_survives_pickling_however_it_was_given() -> None:
    for one in (
        crontab(hour=9, tz="Asia/Tokyo"),
        crontab(hour=9).in_zone("Asia/Tokyo"),
        schedule(10, tz="Asia/Tokyo"),
    ):
        assert pickle.loads(pickle.dumps(one)).tz == ZoneInfo("Asia/Tokyo")


def test_a_schedule_is_moved_into_a_zone_by_copying() -> None:
    nine = crontab(hour=9, app=APP)
    moved = nine.in_zone("Asia/Tokyo")
    assert (moved.tz, moved.app) == (ZoneInfo("Asia/Tokyo"), APP)
    assert nine.tz == UTC or str(nine.tz) == "UTC"
    assert moved.in_zone("Europe/Berlin") is moved


def test_a_subclass_may_set_its_zone_before_it_is_made() -> None:
    class Aware(crontab):
        """As that of django-celery-beat."""

        def __init__(self, *args: Any, tz: Any = None, **kwargs: Any) -> None:
            self.tz = tz
            super().__init__(*args, nowfun=self.moment, **kwargs)

        def moment(self) -> datetime:
            return utc("2026-06-01T06:00").astimezone(self.tz)

    aware = Aware("0", "9", tz=ZoneInfo("America/New_York"), app=APP)
    assert aware.is_due(aware.now()) == (False, 7 * 3600)


def test_fields_that_never_come_true_are_given_up_on() -> None:
    impossible = crontab(day_of_month=30, month_of_year=4, app=APP)
    impossible.day_of_month = {31}
    with pytest.raises(RuntimeError, match="unable to rollover, time specification is probably invalid"):
        impossible.remaining_estimate(utc("2026-01-01T00:00"))
