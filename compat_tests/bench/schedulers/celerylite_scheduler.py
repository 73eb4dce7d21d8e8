"""celerylite's ticker on an SQLite file. The clock is moved by hand, so that only ticks are measured."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

from celerylite import Celery, _clock
from celerylite._ticks import Ticker
from celerylite.schedules import crontab
from compat_tests.bench.schedulers import Scheduler

__all__ = ("make",)


def make() -> Scheduler:
    """As a runtime makes it."""
    return CeleryliteScheduler()


class CeleryliteScheduler(Scheduler):
    """A crontab, and entries in the configuration."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._crontab: Any = crontab(minute="*/5", hour="8-18", day_of_week="mon-fri")
        self._last = datetime.now(UTC)
        self._clock, self._expected = _clock.ManualClock(), 0

    def load(self, count: int, *, one_due: bool) -> None:
        app = self._open.enter_context(Celery("bench", backend=f"db+sqlite:///{count}.sqlite3"))
        entries: dict[str, Any] = {f"e{n}": {"task": "t", "schedule": 86400.0 + n} for n in range(count)}
        if one_due:
            entries["due"] = {"task": "t", "schedule": 1.0}
        app.conf.update(result_expires=None, beat_schedule=entries)
        self._open.enter_context(_clock.use(self._clock))
        self._expected = int(one_due)
        self._ticker = Ticker(app, app.store)
        self._ticker.start()

    def tick(self) -> None:
        if self._expected:
            self._clock.advance(1)
        assert self._ticker.fire_due(self._clock.time()) == self._expected

    def next_fire(self) -> None:
        self._crontab.remaining_estimate(self._last)

    def close(self) -> None:
        self._open.close()
