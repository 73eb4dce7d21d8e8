"""Away from changes of the clocks our schedules give Celery's numbers, for any fields, zone and moment."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import celery.schedules
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from celerylite import schedules

ZONES = [
    "UTC",
    "Asia/Kolkata",
    "America/New_York",
    "Europe/Berlin",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Antarctica/Troll",
    "America/Santiago",
    "Africa/Cairo",
]

#: All that a schedule asks of its app.
APP: Any = SimpleNamespace(
    conf=SimpleNamespace(beat_cron_starting_deadline=None, enable_utc=True), timezone=UTC
)


def field(low: int, high: int) -> st.SearchStrategy[Any]:
    """A cron field in any of the forms users write."""
    number = st.integers(low, high)
    one_range = st.builds("{}-{}".format, number, number)
    step = st.integers(1, high - low + 1)
    part = st.one_of(
        number.map(str), one_range, st.builds("{}/{}".format, one_range, step), step.map("*/{}".format)
    )
    return st.one_of(
        st.just("*"),
        number,
        st.sets(number, min_size=1, max_size=4),
        st.lists(number, min_size=1, max_size=4),
        st.lists(part, min_size=1, max_size=3).map(",".join),
    )


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "minute": field(0, 59),
        "hour": field(0, 23),
        "day_of_week": st.one_of(field(0, 6), st.sampled_from(["mon-fri", "sat,sun", "wednesday"])),
        "day_of_month": field(1, 31),
        "month_of_year": st.one_of(field(1, 12), st.sampled_from(["jan-mar", "feb", "oct,dec"])),
    },
)
MOMENTS = st.integers(1_420_000_000, 2_050_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


def both(fields: dict[str, Any], zone: ZoneInfo, now: datetime) -> tuple[Any, Any]:
    theirs = celery.schedules.crontab(**fields, app=APP, nowfun=lambda: now)
    theirs.tz = zone
    return theirs, schedules.crontab(**fields, app=APP, nowfun=lambda: now, tz=zone)


def offset(moment: datetime, zone: ZoneInfo) -> timedelta | None:
    return moment.astimezone(zone).utcoffset()


def clocks_rest(zone: ZoneInfo, *moments: datetime) -> bool:
    """Whether no clock is changed within two days of any of the moments."""
    two_days = timedelta(days=2)
    return all(offset(moment - two_days, zone) == offset(moment + two_days, zone) for moment in moments)


@settings(max_examples=300, deadline=None)
@given(fields=FIELDS, zone=st.sampled_from(ZONES).map(ZoneInfo), last=MOMENTS, late=st.integers(-90, 400_000))
def test_is_due_and_what_remains_are_those_of_celery(
    fields: dict[str, Any], zone: ZoneInfo, last: datetime, late: int
) -> None:
    try:
        theirs, ours = both(fields, zone, last + timedelta(seconds=late))
    except ValueError:
        assume(False)
    now = ours.now()
    following = now + theirs.remaining_estimate(last)
    after_now = now + theirs.remaining_estimate(now)
    assume(clocks_rest(zone, last, now, following, after_now))
    assert ours.remaining_estimate(last) == theirs.remaining_estimate(last)
    assert ours.is_due(last) == theirs.is_due(last)


@settings(max_examples=200, deadline=None)
@given(
    fields=FIELDS, zone=st.sampled_from(ZONES).map(ZoneInfo), last=MOMENTS, deadline=st.integers(1, 100_000)
)
def test_a_deadline_leaves_out_the_runs_that_celery_leaves_out(
    fields: dict[str, Any], zone: ZoneInfo, last: datetime, deadline: int
) -> None:
    app: Any = SimpleNamespace(conf=SimpleNamespace(beat_cron_starting_deadline=deadline))
    try:
        theirs, ours = both(fields, zone, last + timedelta(days=3))
    except ValueError:
        assume(False)
    theirs.app = ours.app = app
    now = ours.now()
    assume(clocks_rest(zone, last, now, now + theirs.remaining_estimate(now)))
    assert ours.is_due(last) == theirs.is_due(last)


@settings(max_examples=300, deadline=None)
@given(
    spec=st.text("0123456789*/-, abcdefjmnorstuw", max_size=12),
    size=st.sampled_from([(60, 0), (24, 0), (7, 0), (31, 1), (12, 1)]),
)
def test_a_field_is_read_or_refused_as_by_celery(spec: str, size: tuple[int, int]) -> None:
    assert outcome(schedules, spec, size) == outcome(celery.schedules, spec, size)


def outcome(library: Any, spec: str, size: tuple[int, int]) -> Any:
    """What the library's parser makes of a field: the numbers, or the kind and text of its error."""
    try:
        return library.crontab_parser(*size).parse(spec)
    except (ValueError, library.ParseException) as exc:
        return type(exc).__name__, str(exc)


@settings(max_examples=100, deadline=None)
@given(
    fields=FIELDS,
    zone=st.sampled_from(ZONES).map(ZoneInfo),
    last=MOMENTS,
)
def test_last_run_plus_the_delta_is_the_local_time_celery_gives(
    fields: dict[str, Any], zone: ZoneInfo, last: datetime
) -> None:
    try:
        theirs, ours = both(fields, zone, last)
    except ValueError:
        assume(False)
    start, delta, _ = theirs.remaining_delta(last)
    assume(clocks_rest(zone, last, (start + delta).astimezone(UTC)))
    our_start, our_delta, _ = ours.remaining_delta(last)
    assert our_start == start
    assert our_start + our_delta == start + delta


#: Days and months of which most pairs never meet.
RARE_DATES = st.fixed_dictionaries(
    {
        "day_of_month": st.one_of(field(28, 31), st.sampled_from(["30-31", "31", "29,31", "*/30"])),
        "month_of_year": st.one_of(st.sampled_from(["feb", "feb,apr", "4,6,9,11", "*/3"]), field(1, 12)),
    }
)


@settings(max_examples=300, deadline=None)
@given(fields=st.one_of(FIELDS, RARE_DATES))
def test_a_crontab_is_made_printed_and_kept_or_refused_as_by_celery(fields: dict[str, Any]) -> None:
    assert made_of(schedules, fields) == made_of(celery.schedules, fields)


def made_of(library: Any, fields: dict[str, Any]) -> Any:
    """What a crontab of these fields names and prints, also after pickling, or the text of its error."""
    try:
        made = library.crontab(**fields)
    except ValueError as exc:
        return str(exc)
    again = pickle.loads(pickle.dumps(made))
    assert made == again
    return [
        (repr(each), each.minute, each.hour, each.day_of_week, each.day_of_month, each.month_of_year)
        for each in (made, again)
    ]


@settings(deadline=None)
@given(one=FIELDS, other=FIELDS)
def test_crontabs_are_equal_where_those_of_celery_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    try:
        same = {name: sorted(getattr(schedules.crontab(**one), name)) for name in one}
        schedules.crontab(**other)
    except ValueError:
        assume(False)
    # What names the same in other words, and what may name something else.
    for each in (same, other):
        ours, theirs = (
            library.crontab(**one) == library.crontab(**each) for library in (schedules, celery.schedules)
        )
        assert ours == theirs


@pytest.mark.parametrize(
    ("fields", "of_celery", "of_ours"),
    [({}, 180, 240), ({"minute": "*/30"}, 6, 8), ({"minute": 0}, 3, 4)],
)
def test_only_celery_falls_silent_in_the_hour_that_new_york_repeats(
    fields: dict[str, Any], of_celery: int, of_ours: int
) -> None:
    zone = ZoneInfo("America/New_York")
    begin = datetime.fromisoformat("2026-10-31T23:59-04:00").astimezone(UTC)
    fired = [0, 0]
    last = [begin, begin]
    for minute in range(1, 4 * 60 + 1):
        now = begin + timedelta(minutes=minute)
        for which, schedule in enumerate(both(fields, zone, now)):
            if schedule.is_due(last[which]).is_due:
                fired[which] += 1
                last[which] = now
    assert fired == [of_celery, of_ours]


@settings(max_examples=100, deadline=None)
@given(
    seconds=st.one_of(st.integers(0, 400_000), st.floats(0, 100_000)),
    relative=st.booleans(),
    zone=st.sampled_from(ZONES),
    last=MOMENTS,
    late=st.integers(0, 400_000),
)
def test_intervals_are_those_of_celery(
    seconds: float, relative: bool, zone: str, last: datetime, late: int
) -> None:
    app: Any = SimpleNamespace(timezone=ZoneInfo(zone))
    now = last + timedelta(seconds=late)
    theirs = celery.schedules.schedule(seconds, relative, nowfun=lambda: now, app=app)
    ours = schedules.schedule(seconds, relative, nowfun=lambda: now, app=app)
    assert ours.is_due(last) == theirs.is_due(last)
    assert ours.remaining_estimate(last) == theirs.remaining_estimate(last)
    assert repr(ours) == repr(theirs)
