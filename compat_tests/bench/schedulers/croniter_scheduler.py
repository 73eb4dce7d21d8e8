"""croniter by itself, one object kept: the arithmetic under celerylite's cron strings."""

from __future__ import annotations

from datetime import UTC, datetime

from croniter import croniter

from compat_tests.bench.schedulers import Scheduler

__all__ = ("make",)


def make() -> Scheduler:
    """There is nothing to choose."""
    return CroniterScheduler()


class CroniterScheduler(Scheduler):
    """Only works out times."""

    def __init__(self) -> None:
        self._last = datetime.now(UTC)
        self._cron = croniter("*/5 8-18 * * mon-fri", self._last)

    def next_fire(self) -> None:
        self._cron.get_next(datetime, start_time=self._last)

    def close(self) -> None:
        """Nothing is open."""
