"""Away from changes of the clocks our schedules give Celery's numbers, for any fields, zone and moment."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from zoneinfo import ZoneInfo

import celery.schedules
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from celerylite import schedules

ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Asia/Kolkata", "Pacific/Chatham", "America/Santiago"]

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
