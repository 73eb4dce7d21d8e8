"""A scheduler class of the user's goes on working inside the process, in one process at a time."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar

import pytest

from celerylite import Celery, _clock, beat, signals
from celerylite._clock import ManualClock
from celerylite._custom_beat import SchedulerTicker, ticker_for
from celerylite._ticks import Ticker


class Rows(beat.Scheduler):
    """Keeps last runs outside of the process, as the database scheduler of django-celery-beat does."""

    stored: ClassVar[dict[str, Any]] = {}
    closed: ClassVar[list[str]] = []

    def setup_schedule(self) -> None:
        self.merge_inplace({"a": {"task": "elsewhere.work", "schedule": timedelta(seconds=7)}})
        for name, last_run_at in self.stored.items():
            self.schedule[name].last_run_at = last_run_at

    def sync(self) -> None:
        self.stored.update({name: entry.last_run_at for name, entry in self.schedule.items()})

    def close(self) -> None:
        super().close()
        self.closed.append("closed")


@pytest.fixture
def clock() -> Iterator[ManualClock]:
    Rows.stored.clear()
    Rows.closed.clear()
    clock = ManualClock()
    with _clock.use(clock):
        yield clock


@pytest.fixture
def app(clock: ManualClock) -> Iterator[Celery]:
    with Celery("ticks", broker="memory://", backend="cache+memory://") as app:
        app.conf.beat_scheduler = f"{__name__}:Rows"
        yield app


def run(clock: ManualClock, tickers: list[Any], seconds: float) -> None:
    """Let time pass in steps and call each ticker whenever it wants to be."""
    end = clock.time() + seconds
    while clock.time() < end:
        clock.advance(0.25)
        for ticker in tickers:
            if ticker.next_due() <= clock.time():
                ticker.fire_due(clock.time())


def sent(app: Celery) -> int:
    return len(app.store.waiting(1000))


def test_our_own_ticker_serves_the_default(app: Celery) -> None:
    app.conf.beat_scheduler = "celery.beat:PersistentScheduler"
    assert isinstance(ticker_for(app, app.store), Ticker)


def test_a_scheduler_that_cannot_be_loaded_is_logged_and_done_without(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.beat_scheduler = "no_such_package.schedulers:DatabaseScheduler"
    assert type(ticker_for(app, app.store)) is Ticker
    assert "no_such_package.schedulers:DatabaseScheduler" in caplog.text


def test_a_custom_scheduler_sends_what_is_due(app: Celery, clock: ManualClock) -> None:
    ticker = ticker_for(app, app.store)
    assert isinstance(ticker, SchedulerTicker)
    ticker.start()
    run(clock, [ticker], 70)
    assert sent(app) in (9, 10)


def test_one_process_at_a_time_ticks_and_another_takes_over(app: Celery, clock: ManualClock) -> None:
    tickers = [ticker_for(app, app.store) for _ in range(3)]
    for ticker in tickers:
        ticker.start()
    run(clock, tickers, 70)
    assert sent(app) in (9, 10)
    # The first process is killed.
    run(clock, tickers[1:], 70)
    assert sent(app) in (18, 19, 20)


def test_the_beat_signals_carry_the_service(app: Celery, clock: ManualClock) -> None:
    senders: list[Any] = []

    def handler(sender: Any, **kwargs: Any) -> None:
        senders.append(sender)

    signals.beat_init.connect(handler)
    try:
        ticker = ticker_for(app, app.store)
        ticker.start()
        run(clock, [ticker], 30)
    finally:
        signals.beat_init.disconnect(handler)
    assert [type(sender.scheduler) for sender in senders] == [Rows]


def test_closing_stores_what_the_scheduler_knows(app: Celery, clock: ManualClock) -> None:
    ticker = ticker_for(app, app.store)
    assert isinstance(ticker, SchedulerTicker)
    run(clock, [ticker], 10)
    ticker.close()
    assert Rows.closed == ["closed"]
    assert "a" in Rows.stored


def test_a_scheduler_that_raises_is_tried_again(
    app: Celery, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.beat_scheduler = Broken
    ticker = ticker_for(app, app.store)
    assert ticker.fire_due(clock.time()) == 0
    assert ticker.next_due() == clock.time() + 5
    assert "Cannot tick" in caplog.text


class Broken(beat.Scheduler):
    """Cannot reach where its entries are."""

    def setup_schedule(self) -> None:
        raise ConnectionError("no database")
