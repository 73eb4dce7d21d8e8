"""procrastinate: a PostgreSQL database and one worker. It stores how a job ended, no result."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from importlib import import_module
from typing import Any

import psycopg

from compat_tests.bench.contenders import Contender
from compat_tests.bench.processes import Program
from compat_tests.bench.services.postgresql import PostgresqlDatabase

__all__ = ("make",)

_APP = "compat_tests.bench.contenders.procrastinate_app"


def make(variant: str) -> Contender:
    """There is one variant."""
    return Procrastinate()


class Procrastinate(Contender):
    """With its defaults, but for ten jobs at once."""

    def __init__(self) -> None:
        self._database = PostgresqlDatabase()
        os.environ["BENCH_DATABASE"] = self._database.url
        # Reads its address from the environment when it is loaded, here and in the worker.
        self._tasks: Any = import_module(_APP)
        self._tasks.app.open()
        began = time.monotonic()
        self._tasks.app.schema_manager.apply_schema()
        # Its users migrate once, not at each start.
        self.server_s = self._database.took_s + time.monotonic() - began
        self._look = psycopg.connect(self._database.url, autocommit=True)
        self._worker: Program | None = None

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        command = ["-m", "procrastinate", "--app", f"{_APP}.app", "worker", "-c", str(concurrency or 10)]
        self._worker = Program.python(*command)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._tasks.noop.defer()

    def publish_together(self, callers: int, count: int) -> None:
        app = self._tasks.app
        app.close()

        async def caller() -> None:
            for _ in range(count // callers):
                await self._tasks.noop.defer_async()

        async def all_callers() -> None:
            async with app.open_async():
                await asyncio.gather(*(caller() for _ in range(callers)))

        asyncio.run(all_callers())

    def publish_pauses(self, count: int, *, coroutines: bool) -> None:
        for _ in range(count):
            self._tasks.pause.defer()

    def wait(self, count: int) -> None:
        pause = threading.Event()
        while self._succeeded() < count:
            pause.wait(0.01)

    def _succeeded(self) -> int:
        row = self._look.execute(
            "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
        ).fetchone()
        return row[0] if row else 0

    def round_trip(self, *, coroutine: bool = False) -> None:
        job, pause = self._tasks.noop.defer(), threading.Event()
        statement = "SELECT status FROM procrastinate_jobs WHERE id = %s"
        while self._look.execute(statement, (job,)).fetchone() != ("succeeded",):
            pause.wait(0.001)

    def pids(self) -> list[int]:
        return self._database.pids() + ([] if self._worker is None else self._worker.pids())

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._look.close()
        self._database.drop()
