"""Moments and spans: the same answers as Celery's, on both sides of every change of offset."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery.utils import time as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from celerylite import _clock
from celerylite.utils import time as ours

_zones = st.sampled_from(["US/Eastern", "Europe/Berlin", "Australia/Lord_Howe", "UTC"]).map(ZoneInfo)
#: Days on which some of these zones change their offset.
_days = st.sampled_from(
    [(2024, 3, 10), (2024, 11, 3), (2024, 3, 31), (2024, 10, 27), (2024, 4, 7), (2024, 10, 6)]
)
_moments = st.builds(
    lambda day, minutes, fold: (datetime(*day) + timedelta(minutes=minutes)).replace(fold=fold),  # noqa: DTZ001
    _days,
    st.integers(-300, 1500),
    st.integers(0, 1),
)
_spans = st.integers(0, 3000).map(lambda minutes: timedelta(minutes=minutes))


@given(_moments, _zones, _spans, st.booleans(), st.integers(-600, 600))
@settings(max_examples=60, deadline=None)
def test_what_remains_is_what_celery_says(
    naive: datetime, zone: ZoneInfo, span: timedelta, relative: bool, minutes: int
) -> None:
    start = naive.replace(tzinfo=zone)
    now = start + timedelta(minutes=minutes)
    assert ours.remaining(start, span, now, relative) == theirs.remaining(start, span, now, relative)


@given(_moments, _zones)
@settings(max_examples=60, deadline=None)
def test_a_wall_clock_time_becomes_the_same_moment_as_in_celery(naive: datetime, zone: ZoneInfo) -> None:
    for convert in ("make_aware", "localize", "maybe_make_aware"):
        mine, original = getattr(ours, convert)(naive, zone), getattr(theirs, convert)(naive, zone)
        assert (mine.isoformat(), mine.fold) == (original.isoformat(), original.fold)


def test_now_is_what_the_clock_says() -> None:
    clock = _clock.ManualClock(datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC")))
    with _clock.use(clock):
        start = _clock.utcnow()
        clock.advance(10)
        assert ours.remaining(start, timedelta(seconds=30)) == timedelta(seconds=20)


@pytest.mark.parametrize(
    ("text", "per_second"),
    [("10/s", 10), ("60/m", 1), ("36/h", 0.01), ("5", 5), (3, 3), (None, 0), ("0/s", 0)],
)
def test_a_rate_is_so_many_per_second(text: Any, per_second: float) -> None:
    assert ours.rate(text) == pytest.approx(per_second)


@pytest.mark.parametrize(
    "text", ["2024", "2024-02", "2024-02-03", "2024-02-03T04:05:06.7Z", "20240203T040506"]
)
def test_iso_8601_is_read_as_by_celery(text: str) -> None:
    assert ours.maybe_iso8601(text) == theirs.maybe_iso8601(text)


def test_what_is_no_date_is_refused() -> None:
    with pytest.raises(ValueError, match="Invalid isoformat string"):
        ours.maybe_iso8601("tomorrow")
    assert ours.maybe_iso8601(None) is None


def test_a_span_is_told_in_its_largest_unit() -> None:
    assert ours.humanize_seconds(7200, "in", " ") == "in 2.00 hours"
    assert ours.humanize_seconds(0.2) == "now"
    assert ours.humanize_seconds(0.2, microseconds=True) == "0.20 seconds"


def test_the_wait_doubles_up_to_its_limit() -> None:
    waits = [ours.get_exponential_backoff_interval(2, retries, 10) for retries in range(4)]
    assert waits == [2, 4, 8, 10]
    assert 0 <= ours.get_exponential_backoff_interval(2, 3, 10, full_jitter=True) <= 10


def test_the_zone_of_the_machine_can_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    assert ours._Zone().local == ZoneInfo("Europe/Berlin")
    monkeypatch.setenv("TZ", "No/Such_Zone")
    assert isinstance(ours._Zone().local, ours.LocalTimezone)


def test_a_machine_without_a_named_zone_still_has_offsets() -> None:
    zone = ours.LocalTimezone()
    moment = datetime(2024, 1, 1, 12, tzinfo=ZoneInfo("UTC"))
    assert moment.astimezone(zone) == moment
    assert repr(zone).startswith("<LocalTimezone: UTC")
