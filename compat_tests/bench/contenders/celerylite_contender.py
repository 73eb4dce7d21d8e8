"""celerylite: everything in the caller's process; an SQLite file in the working directory, or a server."""

from __future__ import annotations

import asyncio
import threading
from importlib import import_module
from typing import Any

from celerylite import Celery, chain, chord
from compat_tests.bench.contenders import Contender

__all__ = ("database_of", "make", "url_of")

_DRIVERS = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
_DEADLINE_S = 300


def make(variant: str) -> Contender:
    """Variants: '' (the default: SQLite), 'postgresql', 'mysql', 'memory' (SQLite, not durable on return)."""
    return Celerylite(variant)


class Celerylite(Contender):
    """With its defaults; a publisher alone until it is started."""

    def __init__(self, variant: str) -> None:
        self._database = database_of("" if variant == "memory" else variant)
        self.app = Celery("bench")
        if variant == "memory":
            self.app.conf.celerylite_durability = variant
        if self._database is not None:
            self.server_s = self._database.took_s
            self.app.conf.result_backend = f"db+{url_of(self._database)}"
        self._add_tasks()
        self._started = False

    def _add_tasks(self) -> None:
        self.noop, self.anoop = self.app.task(_noop), self.app.task(_anoop)
        self.pause, self.apause = self.app.task(_pause), self.app.task(_apause)
        self.add, self.total = self.app.task(_add), self.app.task(_total)

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        self._started = True
        if concurrency is not None:
            self.app.conf.worker_concurrency = concurrency
        if beat:
            self.app.conf.beat_schedule = {"hourly": {"task": self.noop.name, "schedule": 3600.0}}
            self.app.start_runtime(beat=True)

    def _prepare(self) -> None:
        if not self._started:
            self.app.conf.celerylite_runtime = "off"

    def publish(self, count: int) -> None:
        self._prepare()
        for _ in range(count):
            self.noop.delay()

    def publish_together(self, callers: int, count: int) -> None:
        self._prepare()

        async def caller() -> None:
            for _ in range(count // callers):
                await self.noop.aapply_async()

        async def all_callers() -> None:
            await asyncio.gather(*(caller() for _ in range(callers)))

        asyncio.run(all_callers())

    def publish_pauses(self, count: int, *, coroutines: bool) -> None:
        task: Any = self.apause if coroutines else self.pause
        for _ in range(count):
            task.delay()

    def wait(self, count: int) -> None:
        self.app.drain(_DEADLINE_S)

    def round_trip(self, *, coroutine: bool = False) -> None:
        task: Any = self.anoop if coroutine else self.noop
        assert task.delay().get(timeout=_DEADLINE_S) == 1

    def chain(self, length: int) -> None:
        steps = chain(self.add.s(0, 1), *(self.add.s(1) for _ in range(length - 1)))
        assert steps.delay().get(timeout=_DEADLINE_S) == length

    def chord(self, members: int) -> None:
        result = chord([self.noop.s() for _ in range(members)])(self.total.s())
        assert result.get(timeout=_DEADLINE_S) == members

    def pids(self) -> list[int]:
        pids = getattr(self._database, "pids", None)
        return [] if pids is None else list(pids())

    def stop(self) -> None:
        try:
            self.app.close()
        finally:
            if self._database is not None:
                self._database.drop()


def database_of(variant: str) -> Any:
    """A database of a server, or None; its module loads a driver that an SQLite file does not need."""
    if not variant:
        return None
    module = import_module(f"compat_tests.bench.services.{variant}")
    return getattr(module, f"{variant.capitalize()}Database")()


def url_of(database: Any) -> str:
    """Its URL with the driver that celerylite uses."""
    scheme, _, rest = database.url.partition("://")
    return f"{_DRIVERS[scheme.partition('+')[0]]}://{rest}"


def _noop() -> int:
    return 1


async def _anoop() -> int:
    return 1


def _pause() -> int:
    threading.Event().wait(0.05)
    return 1


async def _apause() -> int:
    await asyncio.sleep(0.05)  # noqa: TID251 -- the I/O that is measured
    return 1


def _add(x: int, y: int) -> int:
    return x + y


def _total(numbers: list[int]) -> int:
    return sum(numbers)
