"""An app, a clock and tickers on one store in memory: what the tests of the schedule share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from celerylite import Celery, _clock
from celerylite._clock import ManualClock
from celerylite._store import Store
from celerylite._ticks import Ticker

START = datetime(2026, 3, 2, 8, 59, 30, tzinfo=UTC)

Starter = Callable[..., Ticker]


def at(text: str) -> float:
    """A moment of the day on which the tests begin, as epoch seconds."""
    return datetime.fromisoformat(f"2026-03-02T{text}+00:00").timestamp()


def make_clock() -> Iterator[ManualClock]:
    """A clock that the test moves."""
    clock = ManualClock(START)
    with _clock.use(clock):
        yield clock


def make_app(name: str = "ticks") -> Iterator[Celery]:
    """An app in memory whose messages wait, because no worker runs."""
    app = Celery(name, broker="memory://", backend="cache+memory://")
    app.conf.result_expires = None  # no entry for the clean-up, unless a test wants it

    @app.task(name="ticks.note")
    def note(*args: Any, **kwargs: Any) -> None:
        """The task of every entry."""

    with app:
        yield app


def make_starter(app: Celery) -> Starter:
    """Put entries into the configuration and start a ticker on the app's store, as one process would."""

    def start(**entries: Any) -> Ticker:
        if entries:
            app.conf.beat_schedule = {
                name: {"task": "ticks.note", **(entry if isinstance(entry, dict) else {"schedule": entry})}
                for name, entry in entries.items()
            }
        ticker = Ticker(app, app.store)
        ticker.start()
        return ticker

    return start


def sent(store: Store) -> list[str]:
    """The due times of the ticks that were published, in order."""
    headers = [waiting.message.headers for waiting in store.waiting(10_000)]
    return [header["celerylite_due_at"][11:19] for header in headers if header.get("celery_beat_task")]


def advance(clock: ManualClock, ticker: Ticker, seconds: float) -> int:
    """Let time pass as the runtime does: call the ticker whenever it says so."""
    end, count = clock.time() + seconds, 0
    while (due := ticker.next_due()) is not None and due <= end:
        clock.advance(max(due - clock.time(), 0))
        count += ticker.fire_due(clock.time())
    clock.advance(end - clock.time())
    return count
