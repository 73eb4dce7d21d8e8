"""Celery: a Redis server, and a worker with two child processes; results in Redis or in an SQLite file."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import redis
from celery import chain, chord

from compat_tests.bench.contenders import Contender
from compat_tests.bench.processes import Program
from compat_tests.bench.services.redis_server import RedisServer

__all__ = ("make",)

_APP = "compat_tests.bench.contenders.celery_app"
_DEADLINE_S = 300
#: How often a result in SQL is looked for. Celery's own 0.5 s would measure nothing but itself.
_INTERVAL_S = 0.005
_RESULTS = "results.sqlite3"


def make(variant: str) -> Contender:
    """Variants: '' (results in Redis), 'sql' (results in SQLite)."""
    return CeleryContender(in_sql=variant == "sql")


class CeleryContender(Contender):
    """With its defaults, but for the number of children."""

    def __init__(self, *, in_sql: bool) -> None:
        self._redis = RedisServer()
        self.server_s = self._redis.took_s
        self._in_sql = in_sql
        self._worker: Program | None = None
        results = f"db+sqlite:///{Path.cwd() / _RESULTS}" if in_sql else self._redis.url(1)
        os.environ.update(BENCH_BROKER=self._redis.url(0), BENCH_RESULTS=results)
        # Reads its addresses from the environment when it is loaded, here and in the worker.
        self._tasks: Any = import_module(_APP)
        self._results = redis.Redis.from_url(self._redis.url(1))

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        pool = ("prefork", "2") if concurrency is None else ("threads", str(concurrency))
        command = ["-m", "celery", "-A", _APP, "worker", "-P", pool[0], "-c", pool[1], "-l", "ERROR"]
        if beat:
            command.append("-B")
        self._worker = Program.python(*command, more={"BENCH_BEAT": "1"} if beat else None)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._tasks.noop.delay()

    def publish_pauses(self, count: int, *, coroutines: bool) -> None:
        for _ in range(count):
            self._tasks.pause.delay()

    def wait(self, count: int) -> None:
        pause = threading.Event()
        while self._stored() < count:
            pause.wait(0.01)

    def _stored(self) -> int:
        if not self._in_sql:
            return sum(1 for _ in self._results.scan_iter("celery-task-meta-*", count=10_000))
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(_RESULTS)) as database:
            found: int = database.execute(
                "SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'"
            ).fetchone()[0]
            return found
        return 0

    def round_trip(self, *, coroutine: bool = False) -> None:
        task = self._tasks.anoop if coroutine else self._tasks.noop
        assert task.delay().get(timeout=_DEADLINE_S, interval=_INTERVAL_S) == 1

    def chain(self, length: int) -> None:
        add = self._tasks.add
        steps = chain(add.s(0, 1), *(add.s(1) for _ in range(length - 1)))
        assert steps.delay().get(timeout=_DEADLINE_S, interval=_INTERVAL_S) == length

    def chord(self, members: int) -> None:
        result = chord([self._tasks.noop.s() for _ in range(members)])(self._tasks.total.s())
        assert result.get(timeout=_DEADLINE_S, interval=_INTERVAL_S) == members

    def pids(self) -> list[int]:
        return self._redis.program.pids() + ([] if self._worker is None else self._worker.pids())

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._redis.stop()
