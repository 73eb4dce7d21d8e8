"""What happens when a run comes due while the one before it goes on: both, none, or one more afterwards."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from celerylite import Celery, signals
from celerylite._clock import ManualClock
from celerylite._store import Delivery, Settlement
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import Gate, MakeApp
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


def run_one(app: Celery) -> Delivery:
    """Begin the oldest call, as a runtime would."""
    (delivery,) = app.store.claim("me", None, 1).deliveries
    app.store.begin([delivery])
    return delivery


def end(app: Celery, delivery: Delivery) -> None:
    app.store.settle(Settlement(delivery=delivery))


def due_at(delivery: Delivery) -> str:
    return str(delivery.message.headers["celerylite_due_at"][11:19])


def test_runs_may_overlap_unless_the_entry_says_otherwise(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a=10)
    advance(clock, ticker, 10)
    run_one(app)
    assert advance(clock, ticker, 20) == 2


def test_a_run_is_skipped_while_the_one_before_goes_on(
    app: Celery, clock: ManualClock, started: Starter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "celery.beat")
    ticker = started(a={"schedule": 10, "overlap": "skip"})
    assert advance(clock, ticker, 10) == 1
    first = run_one(app)
    assert advance(clock, ticker, 25) == 0
    assert "Scheduler: Skipping due task a (ticks.note): its last run goes on" in caplog.messages
    end(app, first)
    assert advance(clock, ticker, 10) == 1
    assert sent(app.store) == ["09:00:10"]
    assert app.schedule.get("a").total_run_count == 2


def test_a_run_that_nobody_has_begun_counts_as_going_on(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": 10, "overlap": "skip"})
    assert advance(clock, ticker, 100) == 1


def test_another_process_knows_that_the_run_before_goes_on(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    first = started(a={"schedule": 10, "overlap": "skip"})
    advance(clock, first, 10)
    second = started()
    assert advance(clock, second, 30) == 0


def test_no_handler_of_publishing_runs_for_a_skipped_run(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": 10, "overlap": "skip"})
    advance(clock, ticker, 10)
    handled: list[Any] = []

    def handler(**kwargs: Any) -> None:
        handled.append(kwargs)

    signals.before_task_publish.connect(handler)
    try:
        advance(clock, ticker, 30)
    finally:
        signals.before_task_publish.disconnect(handler)
    assert handled == []


def test_one_run_waits_for_the_one_before_and_goes_out_when_that_has_ended(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": 10, "overlap": "buffer_one"})
    advance(clock, ticker, 10)
    first = run_one(app)
    assert advance(clock, ticker, 35) == 0
    end(app, first)
    assert advance(clock, ticker, 0.6) == 1
    second = run_one(app)
    assert due_at(second) == "08:59:50"
    assert app.store.periodic()["a"].buffered_at is None
    end(app, second)
    assert advance(clock, ticker, 5) == 1
    assert due_at(run_one(app)) == "09:00:20"
    assert app.schedule.get("a").total_run_count == 3


def test_a_run_that_waits_outlives_the_process_that_held_it_back(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    ticker = started(a={"schedule": 3600, "overlap": "buffer_one"})
    advance(clock, ticker, 3600)
    first = run_one(app)
    advance(clock, ticker, 3600)
    # The process is killed now, and another one starts.
    other = started()
    assert advance(clock, other, 60) == 0
    end(app, first)
    assert advance(clock, other, 1) == 1


def test_of_two_processes_one_sends_the_run_that_waits(
    app: Celery, clock: ManualClock, started: Starter
) -> None:
    tickers = [started(a={"schedule": 60, "overlap": "buffer_one"}), started()]
    for _ in range(122):
        clock.advance(1)
        for ticker in tickers:
            ticker.fire_due(clock.time())
    end(app, run_one(app))
    total = 0
    for _ in range(20):
        clock.advance(1)
        total += sum(ticker.fire_due(clock.time()) for ticker in tickers)
    assert total == 1


def test_pausing_an_entry_drops_the_run_that_waits(app: Celery, clock: ManualClock, started: Starter) -> None:
    ticker = started(a={"schedule": 10, "overlap": "buffer_one"})
    advance(clock, ticker, 20)
    app.schedule.pause("a")
    ticker.look()
    end(app, run_one(app))
    assert advance(clock, ticker, 30) == 0


class _Told(logging.Handler):
    """Notes what is logged."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.INFO)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self._journal.note(record.getMessage())


@contextmanager
def _listening(journal: Journal) -> Iterator[None]:
    """Note in the journal what beat logs."""
    logger, told = logging.getLogger("celery.beat"), _Told(journal)
    logger.setLevel(logging.INFO)
    logger.addHandler(told)
    try:
        yield
    finally:
        logger.removeHandler(told)


def test_a_real_run_holds_one_back_and_lets_it_go_when_it_ends(
    make_app: MakeApp, gate: Gate, journal: Journal
) -> None:
    app = make_app(result_expires=None)
    app.conf.beat_schedule = {"a": {"task": "slow", "schedule": 0.1, "overlap": "buffer_one"}}

    @app.task(name="slow", ignore_result=True)
    def slow() -> None:
        journal.note("begins")
        gate.wait()

    with _listening(journal):
        app.start_runtime(beat=True)
        journal.until("Scheduler: Holding back due task a (slow): its last run goes on")
        journal.until("Scheduler: Skipping due task a (slow): its last run goes on", times=2)
        assert journal.count("begins") == 1
        gate.open()
        journal.until("begins", times=2)


def test_a_run_that_waits_for_its_retry_holds_the_next_one_back(make_app: MakeApp, journal: Journal) -> None:
    app = make_app(result_expires=None)
    app.conf.beat_schedule = {"a": {"task": "retried", "schedule": 0.1, "overlap": "skip"}}

    @app.task(name="retried", bind=True, ignore_result=True)
    def retried(self: Any) -> None:
        journal.note("begins")
        raise self.retry(countdown=3600)

    with _listening(journal):
        app.start_runtime(beat=True)
        journal.until("Scheduler: Skipping due task a (retried): its last run goes on", times=3)
    assert journal.count("begins") == 1
