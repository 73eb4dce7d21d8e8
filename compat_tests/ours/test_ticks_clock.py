"""Clocks that are set, that stand still while a laptop sleeps, and that differ from host to host."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from celerylite import Celery, _clock
from celerylite._clock import ManualClock
from celerylite._ticks import Ticker
from celerylite.schedules import crontab
from celerylite.worker import Runtime
from compat_tests.ours.store_fixtures import make_url
from compat_tests.ours.ticks_fixtures import Starter, advance, make_app, make_clock, make_starter, sent


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    yield from make_clock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Celery]:
    yield from make_app()


@pytest.fixture
def started(app: Celery) -> Starter:
    return make_starter(app)


def test_a_laptop_that_slept_makes_up_for_one_run_and_goes_on(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=60, b=crontab())
    advance(clock, ticker, 60)
    clock.advance(8 * 3600)
    assert advance(clock, ticker, 0) == 2
    # The interval counts from then, the crontab is at the full minute.
    assert sorted(sent(app.store)[-2:]) == ["09:01:30", "17:00:00"]
    assert advance(clock, ticker, 60) == 2


def test_a_clock_that_jumps_ahead_leaves_out_what_it_jumped_over(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": crontab(), "catch_up": "skip"})
    advance(clock, ticker, 45)
    clock.advance(3600.5)
    assert advance(clock, ticker, 60) == 1
    assert sent(app.store) == ["09:00:00", "10:01:00"]


@pytest.mark.parametrize("seconds", [30, 3600, 86400])
def test_a_clock_that_is_set_back_fires_no_minute_twice(
    app: Celery, clock: ManualClock, started: Starter, seconds: float
) -> None:
    ticker = started(a=crontab())
    advance(clock, ticker, 300)
    clock.advance(-seconds)
    advance(clock, ticker, seconds + 300)
    fired = [waiting.message.headers["celerylite_due_at"] for waiting in app.store.waiting(10_000)]
    assert len(set(fired)) == len(fired)


@pytest.mark.parametrize("seconds", [30.5, 3600.5, 86400.5])
def test_a_clock_that_is_set_back_does_not_silence_an_interval(
    app: Celery, clock: ManualClock, started: Starter, seconds: float
) -> None:
    ticker = started(a=1)
    advance(clock, ticker, 100)
    clock.advance(-seconds)
    assert advance(clock, ticker, 20) == 20


def test_a_clock_that_trembles_neither_loses_nor_doubles_a_tick(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=1, b=crontab())
    for n in range(1000):
        clock.advance(0.5 if n % 3 else -0.3)
        ticker.fire_due(clock.time())
    fired = [
        (waiting.message.id, waiting.message.headers["celerylite_due_at"])
        for waiting in app.store.waiting(10_000)
    ]
    assert len({due for _, due in fired}) >= 230
    assert app.store.periodic()["a"].total_run_count + app.store.periodic()["b"].total_run_count == len(fired)


def test_a_tick_that_takes_longer_than_its_period_does_not_pile_up(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=1)
    for _ in range(20):
        # Publishing takes three seconds: a slow database.
        clock.advance(3)
        assert ticker.fire_due(clock.time()) == 1
    assert len(sent(app.store)) == 20
    assert ticker.next_due() == clock.time() + 1


def test_every_run_is_made_up_for_when_a_tick_takes_longer_than_its_period(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": 1, "catch_up": "all"})
    for _ in range(20):
        clock.advance(3)
        assert ticker.fire_due(clock.time()) == 3
    assert len(set(sent(app.store))) == 60


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
@pytest.mark.parametrize("off_by", [-400.0, 400.0])
def test_hosts_whose_clocks_differ_go_by_the_clock_of_the_database(
    kind: str, off_by: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "celery.beat")
    for url in make_url(kind, tmp_path):
        app = Celery("clocks", backend=f"db+{url}")
        app.conf.update(result_expires=None, beat_schedule={"a": {"task": "x", "schedule": 100.0}})
        with app:
            right = Ticker(app, app.store)
            right.start()
            # After the tables were made, which takes its time.
            expected, real = right.next_due(), _clock.time()
            with _clock.use(ManualClock(real + off_by)) as clock:
                assert isinstance(clock, ManualClock)
                wrong = Ticker(app, app.store)
                wrong.start()
                due = wrong.next_due()
                assert due is not None
                # In its own time, the moment is the same one.
                assert due - off_by == pytest.approx(expected, abs=5)
                clock.advance(101)
                assert wrong.fire_due(clock.time()) == 1
            assert right.fire_due(_clock.time() + 101) == 0
            row = app.store.periodic()["a"]
            assert row.last_run_at == pytest.approx(real + 100, abs=10)
    told = re.search(r"differs from the database's by (\S+) seconds", caplog.text)
    assert told is not None
    assert float(told[1]) == pytest.approx(off_by, abs=5)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
@pytest.mark.parametrize("off_by", [-400.0, 400.0])
def test_what_a_host_edits_whose_clock_differs_counts_from_now_by_the_clock_of_the_database(
    kind: str, off_by: float, tmp_path: Path
) -> None:
    for url in make_url(kind, tmp_path):
        app = Celery("clocks", backend=f"db+{url}")
        app.conf.update(result_expires=None, celerylite_runtime="off")
        with app:
            app.schedule.add("resumed", task="x", schedule=100)
            app.schedule.pause("resumed")
            real = _clock.time()
            with _clock.use(ManualClock(real + off_by)):
                app.schedule.add("added", task="x", schedule=100)
                app.schedule.resume("resumed")
            for row in app.store.periodic().values():
                assert row.last_run_at == pytest.approx(real, abs=5)


def test_the_runtime_looks_at_the_clock_every_few_seconds_however_far_off_the_next_run_is(
    app: Celery, started: Starter
) -> None:
    # It waits by a clock that stands still while a laptop sleeps.
    runtime = Runtime(app, app.store, ticker=started(a=3600))
    wait_s = runtime._fire_schedule()
    assert wait_s is not None
    assert 0 < wait_s <= 5


@pytest.fixture(params=["app", "entry"])
def in_new_york(
    app: Celery, clock: ManualClock, started: Starter, request: pytest.FixtureRequest
) -> Callable[..., Ticker]:
    """Make a ticker with entries that go by New York's clocks, because the app does or they do themselves."""
    name = "America/New_York"
    zone = {"timezone": name} if request.param == "entry" else {}
    if not zone:
        app.conf.timezone = name

    def make(begin: str, **schedules: crontab) -> Ticker:
        clock.advance(datetime.fromisoformat(begin).timestamp() - clock.time())
        return started(**{key: {"schedule": when, "args": [key], **zone} for key, when in schedules.items()})

    return make


def runs_by_entry(app: Celery) -> Counter[str]:
    """How often each entry was published."""
    return Counter(json.loads(waiting.message.body)[0][0] for waiting in app.store.waiting(10_000))


def test_entries_in_new_york_fire_through_the_hour_that_autumn_repeats(
    app: Celery, clock: ManualClock, in_new_york: Callable[..., Ticker]
) -> None:
    # From midnight in summer time to three o'clock in winter time: four hours.
    ticker = in_new_york(
        "2026-10-31T23:59:59-04:00",
        minutes=crontab(),
        half_hours=crontab(minute="*/30"),
        hours=crontab(minute=0),
        once=crontab(hour=1, minute=30),
    )
    advance(clock, ticker, 4 * 3600)
    assert runs_by_entry(app) == {"minutes": 240, "half_hours": 8, "hours": 4, "once": 1}


def test_half_past_two_in_new_york_fires_once_in_the_night_that_has_none(
    app: Celery, clock: ManualClock, in_new_york: Callable[..., Ticker]
) -> None:
    ticker = in_new_york(
        "2026-03-07T23:59:59-05:00", daily=crontab(hour=2, minute=30), hours=crontab(minute=0)
    )
    advance(clock, ticker, 23 * 3600)
    assert runs_by_entry(app) == {"daily": 1, "hours": 23}
    fired = [waiting.message.headers["celerylite_due_at"] for waiting in app.store.waiting(100)]
    # At the end of the gap: three o'clock.
    assert fired.count("2026-03-08T07:00:00+00:00") == 2
