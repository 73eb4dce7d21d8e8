"""APScheduler 3 with its jobs in memory, run in place: nothing is published and nothing is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from apscheduler.executors.debug import DebugExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.schedulers.base import STATE_RUNNING
from apscheduler.triggers.cron import CronTrigger

from compat_tests.bench.schedulers import Scheduler

__all__ = ("make",)


def make() -> Scheduler:
    """One that is not started: its ticks are called."""
    return ApschedulerScheduler()


class ApschedulerScheduler(Scheduler):
    """A cron trigger, and interval jobs. An interval of a microsecond is always due."""

    def __init__(self) -> None:
        self._scheduler: Any = BackgroundScheduler(executors={"default": DebugExecutor()}, timezone="UTC")
        self._trigger: Any = CronTrigger.from_crontab("*/5 8-18 * * mon-fri", timezone="UTC")
        self._last = datetime.now(UTC)

    def load(self, count: int, *, one_due: bool) -> None:
        add = self._scheduler.add_job
        for n in range(count):
            add(_nothing, "interval", seconds=86400 + n)
        if one_due:
            add(_nothing, "interval", seconds=1e-3, coalesce=True, misfire_grace_time=60)
        self._scheduler.start(paused=True)
        self._scheduler.state = STATE_RUNNING

    def tick(self) -> None:
        self._scheduler._process_jobs()

    def next_fire(self) -> None:
        self._trigger.get_next_fire_time(None, self._last)

    def close(self) -> None:
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)


def _nothing() -> None:
    pass
