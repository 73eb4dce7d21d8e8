"""Schedules: what the fields mean, when a run is due, how schedules compare, print and pickle."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

MIDNIGHT = {"minute": 0, "hour": 0}


@pytest.fixture
def schedules(submodule: Callable[[str], Any]) -> Any:
    return submodule("schedules")


@pytest.fixture
def crontab(schedules: Any, app: Any) -> Callable[..., Any]:
    """Make a crontab on the app, as if it were `now`."""

    def make(*args: Any, now: str | datetime | None = None, **kwargs: Any) -> Any:
        moment = utc(now) if isinstance(now, str) else now
        return schedules.crontab(*args, nowfun=lambda: moment, app=app, **kwargs)

    return make


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


# -- fields ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "size", "numbers"),
    [
        ("*", (7,), {0, 1, 2, 3, 4, 5, 6}),
        ("*/15", (60,), {0, 15, 30, 45}),
        ("*/3", (31, 1), {1, 4, 7, 10, 13, 16, 19, 22, 25, 28, 31}),
        ("2-12/2", (12, 1), {2, 4, 6, 8, 10, 12}),
        ("8-10,20", (24,), {8, 9, 10, 20}),
        ("22-2", (24,), {22, 23, 0, 1, 2}),
        ("55-5/3", (60, 1), {55, 58, 1, 4}),
        ("mon-fri", (7,), {1, 2, 3, 4, 5}),
        ("sunday", (7,), {0}),
        ("Jan,sep", (12, 1), {1, 9}),
        ("9, 11", (24,), {9, 11}),
        ("*/1 * * * *", (60,), set(range(60))),
    ],
)
def test_a_field_names_numbers(schedules: Any, spec: str, size: tuple[int, ...], numbers: set[int]) -> None:
    assert schedules.crontab_parser(*size).parse(spec) == numbers


@pytest.mark.parametrize("spec", ["", "1,,2", "*/", "1-2/", "-20"])
def test_a_field_that_cannot_be_read_is_a_parse_exception(schedules: Any, spec: str) -> None:
    with pytest.raises(schedules.ParseException):
        schedules.crontab_parser(60).parse(spec)


@pytest.mark.parametrize(
    "fields",
    [
        {"minute": 60},
        {"minute": "0-100"},
        {"hour": 24},
        {"hour": {-1}},
        {"day_of_week": "7"},
        {"day_of_week": "fooday"},
        {"day_of_month": 0},
        {"day_of_month": "last"},
        {"month_of_year": [13]},
    ],
)
def test_a_field_out_of_range_is_a_value_error(crontab: Callable[..., Any], fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"[Ii]nvalid"):
        crontab(**fields)


def test_the_words_of_errors(crontab: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"^Invalid crontab pattern.  Valid range is 0-59. '60' was found.$"):
        crontab(minute=60)
    with pytest.raises(TypeError, match="Argument cronspec needs to be of any of the following types: int"):
        crontab(minute=object())
    with pytest.raises(
        ValueError, match=r"^Invalid crontab: day_of_month 30 never occurs in month_of_year 2\.$"
    ):
        crontab(day_of_month=30, month_of_year=2)
    with pytest.raises(ValueError, match=r"^Invalid weekday literal 'x'.$"):
        crontab(minute="x")
    with pytest.raises(ValueError, match=r"^Invalid end range: 8 > 6.$"):
        crontab(day_of_week="8")


def test_fields_may_be_numbers_strings_sets_and_iterables(crontab: Callable[..., Any]) -> None:
    given = crontab(minute=5, hour="1,2", day_of_week={0, 6}, day_of_month=[1, 15], month_of_year=iter([3]))
    assert (given.minute, given.hour, given.day_of_week) == ({5}, {1, 2}, {0, 6})
    assert (given.day_of_month, given.month_of_year) == ({1, 15}, {3})


def test_from_string_takes_the_fields_in_the_order_of_cron(schedules: Any) -> None:
    expected = schedules.crontab(minute=0, hour=8, day_of_month=5, month_of_year=6, day_of_week="sun")
    assert schedules.crontab.from_string("0 8 5 6 SUN") == expected
    with pytest.raises(ValueError, match="unpack"):
        schedules.crontab.from_string("* * * *")


# -- when ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "last", "following"),
    [
        ({}, "2010-09-11T14:30:15", "2010-09-11T14:31"),
        ({"minute": [5, 42]}, "2010-09-11T14:30:15", "2010-09-11T14:42"),
        ({"minute": [5, 42], "hour": [12]}, "2010-09-11T14:30:15", "2010-09-12T12:05"),
        ({"hour": "*/12"}, "2010-09-11T12:59:01", "2010-09-12T00:00"),
        ({"minute": 30, "hour": 14, "day_of_week": "sat"}, "2010-09-11T14:30:15", "2010-09-18T14:30"),
        ({**MIDNIGHT, "day_of_month": 29}, "2011-01-29T00:00", "2011-03-29T00:00"),
        (
            {"minute": 0, "hour": 0, "day_of_month": 29, "month_of_year": 2},
            "2012-02-29T00:00",
            "2016-02-29T00:00",
        ),
        # Both day fields must match: the next Monday that is an 18th.
        (
            {"minute": 0, "hour": 0, "day_of_week": "mon", "day_of_month": 18},
            "2010-01-18T01:00",
            "2010-10-18T00:00",
        ),
        ({**MIDNIGHT, "month_of_year": "jan"}, "2010-02-01T00:00", "2011-01-01T00:00"),
    ],
)
def test_the_next_run_is_the_first_matching_minute_after_the_last(
    crontab: Callable[..., Any], fields: dict[str, Any], last: str, following: str
) -> None:
    assert utc(last) + crontab(now=last, **fields).remaining_estimate(utc(last)) == utc(following)


def test_a_crontab_that_is_due_says_when_the_next_run_is(crontab: Callable[..., Any]) -> None:
    daily = crontab(hour=7, minute=30, now="2010-05-10T07:30")
    assert daily.is_due(utc("2010-05-09T07:30")) == (True, 24 * 3600)
    assert daily.is_due(utc("2010-05-09T07:30")).is_due is True


def test_a_crontab_that_is_not_due_says_when_it_is(crontab: Callable[..., Any]) -> None:
    daily = crontab(hour=7, minute=30, now="2010-05-10T10:30")
    assert daily.is_due(utc("2010-05-10T07:30")) == (False, 21 * 3600)


@pytest.mark.parametrize(("deadline", "due"), [(None, True), (3 * 3600, True), (3 * 3600 - 1, False)])
def test_a_missed_run_is_made_up_for_within_the_deadline(
    app: Any, crontab: Callable[..., Any], deadline: int | None, due: bool
) -> None:
    app.conf.beat_cron_starting_deadline = deadline
    daily = crontab(hour=7, minute=30, now="2010-05-10T10:30")
    assert daily.is_due(utc("2010-05-08T07:30")) == (due, 21 * 3600)


def test_fields_are_read_in_the_zone_of_the_app(app: Any, crontab: Callable[..., Any]) -> None:
    app.conf.timezone = "Asia/Tokyo"
    morning = crontab(hour=9, minute=0, now="2020-01-01T12:00")
    assert morning.remaining_estimate(utc("2020-01-01T12:00")) == timedelta(hours=12)


def test_a_last_run_may_come_in_any_zone_or_none(crontab: Callable[..., Any]) -> None:
    daily = crontab(minute=40, hour=8, now="2025-05-20T06:26")
    for last in (utc("2025-05-20T06:25"), datetime(2025, 5, 20, 6, 25)):  # noqa: DTZ001
        assert daily.remaining_estimate(last) == timedelta(hours=2, minutes=14)
    elsewhere = datetime(2025, 5, 20, 9, 25, tzinfo=ZoneInfo("Europe/Vilnius"))
    assert daily.remaining_estimate(elsewhere) == timedelta(hours=2, minutes=14)


def test_remaining_delta_gives_the_last_run_the_way_to_the_next_and_now(crontab: Callable[..., Any]) -> None:
    hourly = crontab(minute=30, now="2020-01-01T10:00")
    last, delta, now = hourly.remaining_delta(utc("2020-01-01T09:45"))
    assert (last, last + delta, now) == (
        utc("2020-01-01T09:45"),
        utc("2020-01-01T10:30"),
        utc("2020-01-01T10:00"),
    )


# -- intervals --------------------------------------------------------------------------------------


def test_an_interval_counts_from_the_last_run(schedules: Any, app: Any) -> None:
    every = schedules.schedule(60, nowfun=lambda: utc("2020-01-01T10:00:20"), app=app)
    assert every.is_due(utc("2020-01-01T10:00")) == (False, 40)
    assert every.is_due(utc("2020-01-01T09:59")) == (True, 60)
    assert every.remaining_estimate(utc("2020-01-01T10:00")) == timedelta(seconds=40)


def test_a_relative_interval_runs_at_the_full_unit(schedules: Any, app: Any) -> None:
    every = schedules.schedule(timedelta(hours=1), True, nowfun=lambda: utc("2026-01-01T10:59:30"), app=app)
    assert every.is_due(utc("2026-01-01T09:00")) == (True, 30)


# -- what they are -----------------------------------------------------------------------------------


def test_schedules_compare_by_what_they_do(schedules: Any) -> None:
    assert schedules.schedule(10) == schedules.schedule(timedelta(seconds=10)) == timedelta(seconds=10)
    assert schedules.schedule(10) != schedules.schedule(12)
    assert schedules.crontab(day_of_week="1, 2") == schedules.crontab(day_of_week="1-2")
    assert schedules.crontab(minute=1) != schedules.crontab(minute=2)
    assert schedules.crontab(minute=1) != schedules.schedule(60)
    assert schedules.crontab(minute=1) != object()


def test_schedules_have_no_hash(schedules: Any) -> None:
    for one in (schedules.crontab(), schedules.schedule(10)):
        with pytest.raises(TypeError, match="unhashable"):
            hash(one)


def test_schedules_print_what_was_given(schedules: Any) -> None:
    one = schedules.crontab(minute="*/5", hour=[1, 2], day_of_week="mon")
    assert repr(one) == "<crontab: */5 [1, 2] * * mon (m/h/dM/MY/d)>"
    assert repr(schedules.schedule(90)) == "<freq: 1.50 minutes>"


def test_schedules_survive_pickling(schedules: Any) -> None:
    for one in (schedules.crontab("1", "2", "3", "4", "5"), schedules.schedule(10, relative=True)):
        again = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(one))))
        assert again == one
        assert repr(again) == repr(one)


def test_maybe_schedule_makes_schedules_of_numbers_and_timedeltas(schedules: Any, app: Any) -> None:
    assert schedules.maybe_schedule(None) is None
    for given in (10, 10.0, timedelta(seconds=10)):
        made = schedules.maybe_schedule(given, relative=True, app=app)
        assert (made, made.relative, made.app) == (schedules.schedule(10), True, app)
    crontab = schedules.crontab()
    assert schedules.maybe_schedule(crontab, app=app) is crontab
    assert crontab.app is app


def test_schedules_of_users_have_an_app_a_clock_and_a_zone(schedules: Any, app: Any) -> None:
    class Mine(schedules.BaseSchedule):  # type: ignore[misc]
        pass

    app.conf.timezone = "Asia/Tokyo"
    mine = Mine(app=app)
    assert str(mine.tz) == "Asia/Tokyo"
    assert mine.maybe_make_aware(datetime(2020, 1, 1)) == utc("2020-01-01T00:00")  # noqa: DTZ001
    assert Mine(nowfun=lambda: 42, app=app).now() == 42
    with pytest.raises(NotImplementedError):
        mine.is_due(utc("2020-01-01T00:00"))
    with pytest.raises(NotImplementedError):
        mine.remaining_estimate(utc("2020-01-01T00:00"))
