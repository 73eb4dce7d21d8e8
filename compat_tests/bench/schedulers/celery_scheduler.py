"""celery.beat with its schedule in memory; what is due goes to Celery's broker in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from celery import Celery
from celery.beat import Scheduler as Beat
from celery.schedules import crontab

from compat_tests.bench.schedulers import Scheduler

__all__ = ("make",)


def make() -> Scheduler:
    """As `celery beat` makes it, without the file."""
    return CeleryScheduler()


class CeleryScheduler(Scheduler):
    """A crontab, and entries in the configuration. An interval of nothing is always due."""

    def __init__(self) -> None:
        self._app = Celery("bench", broker="memory://")
        self._crontab: Any = crontab(minute="*/5", hour="8-18", day_of_week="mon-fri")
        self._last = datetime.now(UTC)

    def load(self, count: int, *, one_due: bool) -> None:
        entries: dict[str, Any] = {f"e{n}": {"task": "t", "schedule": 86400.0 + n} for n in range(count)}
        if one_due:
            entries["due"] = {"task": "t", "schedule": 0.0}
        self._app.conf.update(result_expires=None, beat_schedule=entries)
        self._beat: Any = Beat(app=self._app)

    def tick(self) -> None:
        self._beat.tick()

    def next_fire(self) -> None:
        self._crontab.remaining_estimate(self._last)

    def close(self) -> None:
        """Nothing is open."""
