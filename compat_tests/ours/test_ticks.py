"""The schedule inside the process: each tick once, missed ones by policy, one broken entry stops no other."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celerylite import Celery, _ticks, beat, signals
from celerylite._clock import ManualClock
from celerylite._store import PeriodicRow
from celerylite.beat import BeatLazyFunc
from celerylite.schedules import BaseSchedule, crontab, schedule
from compat_tests.conftest import Journal
from compat_tests.ours.ticks_fixtures import (
    START,
    Starter,
    advance,
    at,
    make_app,
    make_clock,
    make_starter,
    sent,
)


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    yield from make_clock()


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Celery]:
    yield from make_app()


@pytest.fixture
def started(app: Celery) -> Starter:
    return make_starter(app)


def test_an_interval_counts_from_the_moment_its_entry_was_first_seen(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=10)
    assert ticker.next_due() == at("08:59:40")
    assert advance(clock, ticker, 35) == 3
    assert sent(app.store) == ["08:59:40", "08:59:50", "09:00:00"]


def test_a_crontab_fires_at_the_minutes_it_names(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started(a=crontab(minute="0,5"))
    assert ticker.next_due() == at("09:00")
    assert advance(clock, ticker, 3700) == 3
    assert sent(app.store) == ["09:00:00", "09:05:00", "10:00:00"]


def test_a_line_of_cron_is_a_schedule(app: Celery, started: Starter) -> None:
    assert started(a="0 9 * * 1-5").next_due() == at("09:00")


def test_an_entry_can_have_a_zone_of_its_own(app: Celery, started: Starter) -> None:
    ticker = started(a={"schedule": crontab(hour=10, minute=0), "timezone": "Europe/Berlin"})
    assert ticker.next_due() == at("09:00")


def test_an_interval_in_time_does_not_drift(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started(a=10)
    clock.advance(10.4)
    ticker.fire_due(clock.time())
    assert ticker.next_due() == at("08:59:50")


def test_a_late_interval_moves_the_runs_that_follow(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=10)
    clock.advance(34)
    assert ticker.fire_due(clock.time()) == 1
    assert ticker.next_due() == clock.time() + 10


def test_each_tick_is_published_once_by_two_processes(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    tickers = [started(a=10, b=crontab(), c=schedule(timedelta(seconds=7))), started()]
    end = clock.time() + 300
    while clock.time() < end:
        dues = [due for ticker in tickers if (due := ticker.next_due()) is not None]
        clock.advance(max(min(dues) - clock.time(), 0))
        for ticker in tickers:
            ticker.fire_due(clock.time())
    assert len(sent(app.store)) == 30 + 5 + 42
    assert sorted(sent(app.store)) == sent(app.store)


def test_the_process_that_lost_a_tick_stands_by_and_runs_no_publish_handler(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    first, second = started(a=10), started()
    clock.advance(10)
    assert (first.fire_due(clock.time()), second.fire_due(clock.time())) == (1, 0)
    handled: list[Any] = []

    def handler(**kwargs: Any) -> None:
        handled.append(kwargs)

    signals.before_task_publish.connect(handler)
    try:
        clock.advance(10)
        assert (second.fire_due(clock.time()), first.fire_due(clock.time())) == (0, 1)
        clock.advance(1)
        assert second.fire_due(clock.time()) == 0
    finally:
        signals.before_task_publish.disconnect(handler)
    assert len(handled) == 1


def test_another_process_takes_over_a_moment_after_a_tick_was_left_out(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    first, second = started(a=60), started()
    clock.advance(60)
    first.fire_due(clock.time())
    second.fire_due(clock.time())
    # The first process is killed now.
    assert advance(clock, second, 60.5) == 1
    assert sent(app.store) == ["09:00:30", "09:01:30"]


def test_two_processes_that_start_together_agree_on_the_rhythm(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    first = started(a=10)
    clock.advance(3)
    second = started()
    assert first.next_due() == second.next_due() == at("08:59:40")


def test_a_run_missed_while_nothing_ran_is_made_up_for_once(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    advance(clock, started(a=crontab(minute=0), b=600), 60)
    clock.advance(3 * 3600)
    ticker = started()
    assert ticker.fire_due(clock.time()) == 2
    assert sent(app.store) == ["09:00:00", "09:09:30", "12:00:00"]
    assert ticker.fire_due(clock.time()) == 0
    assert ticker.next_due() == clock.time() + 300  # the next look at the database


def test_missed_runs_are_left_out_when_the_entry_says_so(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    started(a={"schedule": crontab(minute=0), "catch_up": "skip"}, b={"schedule": 600, "catch_up": "skip"})
    clock.advance(3 * 3600)
    ticker = started()
    assert advance(clock, ticker, 3600) == 7
    assert sent(app.store)[:3] == ["12:00:00", "12:09:30", "12:19:30"]


def test_all_missed_runs_are_made_up_for_when_the_entry_says_so(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    started(a={"schedule": crontab(), "catch_up": "all"})
    clock.advance(3 * 3600)
    advance(clock, started(), 1)
    assert len(sent(app.store)) == 180
    assert sent(app.store)[0] == "09:00:00"


def test_the_deadline_bounds_what_is_made_up_for(app: Celery, clock: ManualClock, started: Starter) -> None:
    app.conf.beat_cron_starting_deadline = 600
    started(a={"schedule": crontab(), "catch_up": "all"}, b=crontab(minute=0), c=crontab(minute=55))
    clock.advance(3 * 3600)
    assert started().fire_due(clock.time()) == 10 + 0 + 1


def test_a_broken_entry_is_logged_and_does_not_stop_the_others(
    app: Celery, clock: ManualClock, started: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(schedule):
        def is_due(self, last_run_at: datetime) -> Any:
            raise RuntimeError("no idea")

    ticker = started(
        good=10,
        unreadable="every day",
        misspelt={"schedule": 10, "argz": (1,)},
        policy={"schedule": 10, "catch_up": "maybe"},
        placeless={"schedule": 10, "timezone": "Nowhere/Land"},
        raising=Broken(10),
        unsendable={"schedule": 10, "args": (object(),)},
        lazy={"schedule": 10, "args": (BeatLazyFunc(lambda: 1 / 0),)},
    )
    assert advance(clock, ticker, 10) == 1
    assert sent(app.store) == ["08:59:40"]
    for name in ("unreadable", "misspelt", "policy", "placeless", "raising", "unsendable", "lazy"):
        assert name in caplog.text


def test_what_is_sent_is_marked_and_has_the_options_of_its_entry(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(
        a={
            "schedule": 10,
            "args": (1, BeatLazyFunc(lambda: 2)),
            "kwargs": {"x": BeatLazyFunc(lambda: 3)},
            "options": {"queue": "slow", "priority": 7, "expires": 30, "headers": {"tenant": "t"}},
        }
    )
    advance(clock, ticker, 10)
    (waiting,) = app.store.waiting(10)
    message = waiting.message
    assert (message.queue, message.priority, message.expires_at) == ("slow", 7, at("09:00:10"))
    assert message.headers["celery_beat_task"] is True
    assert message.headers["tenant"] == "t"
    assert json.loads(message.body)[:2] == [[1, 2], {"x": 3}]
    assert app.conf.beat_schedule["a"]["options"]["headers"] == {"tenant": "t"}


def test_a_task_of_another_program_is_sent_by_name(app: Celery, clock: ManualClock, started: Starter) -> None:
    advance(clock, started(a={"task": "elsewhere.work", "schedule": 10}), 10)
    assert [waiting.message.name for waiting in app.store.waiting(10)] == ["elsewhere.work"]


def test_eager_tasks_run_in_the_tick_and_once(app: Celery, clock: ManualClock, started: Starter) -> None:
    runs: list[int] = []

    @app.task(name="ticks.count")
    def count() -> None:
        runs.append(1)

    app.conf.task_always_eager = True
    first, second = started(a={"task": "ticks.count", "schedule": 10}), started()
    clock.advance(10)
    assert (first.fire_due(clock.time()), second.fire_due(clock.time())) == (1, 0)
    assert runs == [1]


def test_a_tick_is_logged_in_the_words_of_celery(
    app: Celery, clock: ManualClock, started: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "celery.beat")
    advance(clock, started(a=10), 10)
    (waiting,) = app.store.waiting(10)
    assert "beat: Starting..." in caplog.messages
    assert "Scheduler: Sending due task a (ticks.note)" in caplog.messages
    assert f"ticks.note sent. id->{waiting.message.id}" in caplog.messages


def test_the_database_knows_runs_and_their_number(app: Celery, clock: ManualClock, started: Starter) -> None:
    advance(clock, started(a=10), 30)
    last = [waiting.message.id for waiting in app.store.waiting(3)][2]
    assert app.store.periodic()["a"] == PeriodicRow(
        name="a",
        last_run_at=at("09:00:00"),
        next_run_at=at("09:00:10"),
        total_run_count=3,
        app="ticks",
        task="ticks.note",
        last_task_id=last,
    )


def test_a_changed_schedule_counts_from_the_last_run(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    advance(clock, started(a=60), 65)
    assert started(a=30).next_due() == at("09:01:00")


def test_an_entry_that_was_removed_is_forgotten(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started(a=60, b=60)
    app.conf.beat_schedule = {"b": app.conf.beat_schedule["b"]}
    ticker.start()
    assert list(app.store.periodic()) == ["b"]
    assert advance(clock, ticker, 60) == 1


def test_a_task_that_was_changed_in_the_configuration_is_no_reason_to_warn_others(
    app: Celery, clock: ManualClock, started: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    started(a={"task": "before", "schedule": 60})
    advance(clock, started(a={"task": "after", "schedule": 60}), 60)
    assert [waiting.message.name for waiting in app.store.waiting(10)] == ["after"]
    assert app.store.periodic()["a"].task == "after"
    # Another program with the same entry.
    app.main = "elsewhere"
    started()
    assert "each tick fires only one" not in caplog.text


def test_entries_that_handlers_of_the_app_add_fire(journal: Journal) -> None:
    with Celery("handlers", broker="memory://", backend="cache+memory://") as app:

        @app.on_after_configure.connect
        def configured(sender: Celery, **kwargs: Any) -> None:
            sender.add_periodic_task(0.1, note.s("configured"))

        @app.on_after_finalize.connect
        def finalized(sender: Celery, **kwargs: Any) -> None:
            sender.add_periodic_task(timedelta(seconds=0.1), note.s("finalized"), name="often")

        @app.task(name="note")
        def note(word: str) -> None:
            journal.note(word)

        app.start_runtime(beat=True)
        for word in ("configured", "finalized"):
            journal.until(word, times=2)
        assert {"often", "note('configured')"} < app.schedule.entries().keys()


def test_another_programs_edit_is_found_at_the_next_look_though_nobody_tells_of_it(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    app.conf.beat_max_loop_interval = 30
    ticker = started(a=3600)
    assert ticker.next_due() == clock.time() + 30
    app.schedule.add("b", task="ticks.note", schedule=10)
    assert advance(clock, ticker, 29) == 0
    # What is late by then is made up for once.
    assert advance(clock, ticker, 1) == 1


def test_an_entry_added_later_is_taken_up(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started(a=60)
    app.add_periodic_task(5.0, app.tasks["ticks.note"].s(1), name="b")
    ticker.start()
    assert ticker.next_due() == at("08:59:35")


def test_a_name_may_be_longer_than_a_column_of_the_database(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(**{"a" * 300: 10, "a" * 299 + "b": 10})
    assert advance(clock, ticker, 10) == 2
    assert sorted(map(len, app.store.periodic())) == [255, 255]
    ticker.start()
    assert len(app.store.periodic()) == 2


def test_a_paused_entry_does_not_fire_and_makes_up_for_nothing(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=10)
    app.store.edit_periodic("a", enabled=False)
    assert ticker.look()
    assert advance(clock, ticker, 125) == 0
    app.store.edit_periodic("a", enabled=True)
    assert ticker.look()
    assert advance(clock, ticker, 61) <= 6
    assert sent(app.store)[0] > "09:01"


def test_a_clock_that_was_ahead_does_not_silence_an_entry(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    clock.advance(400 * 86400)
    ticker = started(a=60)
    clock.advance(-400 * 86400)
    assert advance(clock, ticker, 130) == 2
    assert advance(clock, started(), 60) == 1


def test_a_database_that_is_away_delays_ticks_and_loses_none(
    app: Celery, clock: ManualClock, started: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*args: Any, **kwargs: Any) -> Any:
        raise OperationalError("no database")

    ticker = started(a=10, b=crontab())
    with monkeypatch.context() as outage:
        outage.setattr(app.store, "periodic", away)
        outage.setattr(app.store, "tick", away)
        outage.setattr(app.store, "letters", away)
        assert ticker.look()
        assert advance(clock, ticker, 31) == 0
    assert advance(clock, ticker, 5) == 2
    assert sent(app.store) == ["08:59:40", "09:00:00"]


def test_a_laptop_that_slept_fires_once_when_it_wakes(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=60, b=crontab())
    advance(clock, ticker, 60)
    clock.advance(8 * 3600)
    assert ticker.fire_due(clock.time()) == 2


def test_schedules_of_which_only_is_due_is_known_fire_once_too(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    class Odd(schedule):
        """A user's class: due 10 seconds after the last run."""

        def is_due(self, last_run_at: datetime) -> Any:
            left = 10 - (self.now() - last_run_at).total_seconds()
            return (True, 10) if left <= 0 else (False, left)

    tickers = [started(a=Odd(1), b={"schedule": 60, "relative": True}), started()]
    end = clock.time() + 60
    while clock.time() < end:
        clock.advance(0.5)
        for ticker in tickers:
            ticker.fire_due(clock.time())
    assert len(sent(app.store)) == 6 + 1


class Halves(BaseSchedule):
    """A class of a user's that is no interval and no crontab: half past every minute."""

    def is_due(self, last_run_at: datetime) -> Any:
        last = last_run_at.replace(second=30, microsecond=0)
        following = last if last > last_run_at else last + timedelta(minutes=1)
        wait_s = (following - self.now()).total_seconds()
        return (True, 60) if wait_s <= 0 else (False, wait_s)


class Duck:
    """A class of a user's that derives from nothing of ours."""

    def __init__(self) -> None:
        self.app: Any = None

    def now(self) -> datetime:
        return self.app.now()  # type: ignore[no-any-return]

    def is_due(self, last_run_at: datetime) -> tuple[bool, float]:
        return Halves(app=self.app).is_due(last_run_at)  # type: ignore[no-any-return]


@pytest.mark.parametrize("make", [Halves, Duck])
def test_a_class_of_the_users_decides_when_its_entry_is_due(
    app: Celery, clock: ManualClock, started: Starter, make: Any
) -> None:
    tickers = [started(a=make()), started()]
    for _ in range(250):
        clock.advance(1)
        for ticker in tickers:
            ticker.fire_due(clock.time())
    assert sent(app.store) == ["09:00:30", "09:01:30", "09:02:30", "09:03:30"]


def test_an_always_due_schedule_does_not_keep_the_ticker_to_itself(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=0)
    assert ticker.fire_due(clock.time()) == 1
    assert (ticker.next_due() or 0) > clock.time()


def test_the_clean_up_is_an_entry_as_in_celery(app: Celery, started: Starter) -> None:
    app.conf.result_expires = 3600
    started()
    assert list(app.store.periodic()) == ["celery.backend_cleanup"]
    assert app.store.periodic()["celery.backend_cleanup"].last_run_at == START.timestamp()


def test_the_beat_signals_are_sent_once(app: Celery, started: Starter) -> None:
    seen: list[Any] = []

    def handler(sender: Any, signal: Any, **kwargs: Any) -> None:
        seen.append((signal, sender))

    for signal in (signals.beat_init, signals.beat_embedded_init):
        signal.connect(handler)
    try:
        ticker = started(a=10)
        ticker.start()
    finally:
        for signal in (signals.beat_init, signals.beat_embedded_init):
            signal.disconnect(handler)
    assert seen == [(signals.beat_init, ticker), (signals.beat_embedded_init, ticker)]


def test_a_tick_looks_at_due_entries_only(
    app: Celery, clock: ManualClock, started: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticker = started(**{f"e{n}": 3600 + n for n in range(300)}, due=10)
    looked_at: list[Any] = []

    def following(when: Any, last_run_at: float) -> float:
        looked_at.append(when)
        return float(last_run_at + when.seconds)

    monkeypatch.setattr(_ticks, "following", following)
    advance(clock, ticker, 50)
    assert len(sent(app.store)) == 5
    assert {when.seconds for when in looked_at} == {10}


@pytest.mark.parametrize(
    "bad",
    [{"timezone": "Mars/Base"}, {"schedule": "61 * * * *"}, {"overlaps": "skip"}, {"task": None}, 7],
)
def test_an_entry_that_cannot_be_used_stops_no_beat_program(
    app: Celery, clock: ManualClock, caplog: pytest.LogCaptureFixture, bad: Any
) -> None:
    good = {"task": "ticks.note", "schedule": 10}
    app.conf.beat_schedule = {"bad": {**good, **bad} if isinstance(bad, dict) else bad, "good": good}
    scheduler = beat.Service(app).scheduler
    scheduler.tick()
    clock.advance(10)
    scheduler.tick()
    assert "ticks.note" in [each.message.name for each in app.store.waiting(10)]
    assert "Cannot use the entry 'bad' of the schedule, leaving it out." in caplog.text
    assert "good" in scheduler.schedule
    scheduler.close()


def test_a_periodic_task_may_have_a_zone_and_policies(app: Celery) -> None:
    note = app.tasks["ticks.note"].s(1)
    zone = "Asia/Tokyo"
    app.add_periodic_task(
        crontab(hour=9), note, name="a", timezone=zone, catch_up="skip", overlap="skip", queue="q"
    )
    entry = app.schedule.get("a")
    assert (entry.catch_up, entry.overlap, entry.options) == ("skip", "skip", {"queue": "q"})
    assert str(entry.schedule.tz) == zone


def test_the_default_scheduler_of_beat_ticks_once_however_many_beats_run(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    app.conf.beat_schedule = {"a": {"task": "ticks.note", "schedule": 10}}
    schedulers = [beat.Service(app).scheduler for _ in range(2)]
    assert [type(scheduler) for scheduler in schedulers] == [beat.StoreScheduler] * 2
    waits = [scheduler.tick() for scheduler in schedulers]
    assert waits == [5, 5]  # not 10: somebody may set the clock meanwhile
    clock.advance(10)
    for scheduler in schedulers:
        scheduler.tick()
    assert sent(app.store) == ["08:59:40"]
