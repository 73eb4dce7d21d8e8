"""Dramatiq: a Redis server, and two worker processes with four threads each; results in Redis."""

from __future__ import annotations

import os
import threading
from importlib import import_module
from typing import Any

import dramatiq
import redis

from compat_tests.bench.contenders import Contender
from compat_tests.bench.processes import Program
from compat_tests.bench.services.redis_server import RedisServer

__all__ = ("make",)

_APP = "compat_tests.bench.contenders.dramatiq_app"
_TIMEOUT_MS = 60_000


def make(variant: str) -> Contender:
    """There is one variant."""
    return Dramatiq()


class Dramatiq(Contender):
    """With its defaults, and results stored."""

    def __init__(self) -> None:
        self._redis = RedisServer()
        self.server_s = self._redis.took_s
        os.environ.update(BENCH_BROKER=self._redis.url(0), BENCH_RESULTS=self._redis.url(1))
        # Reads its addresses from the environment when it is loaded, here and in the workers.
        self._tasks: Any = import_module(_APP)
        self._results = redis.Redis.from_url(self._redis.url(1))
        self._worker: Program | None = None

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        size = ("2", "4") if concurrency is None else ("1", str(concurrency))
        self._worker = Program.python("-m", "dramatiq", _APP, "-p", size[0], "-t", size[1])

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._tasks.noop.send()

    def publish_pauses(self, count: int, *, coroutines: bool) -> None:
        for _ in range(count):
            self._tasks.pause.send()

    def wait(self, count: int) -> None:
        pause = threading.Event()
        # Its results are read, and so removed, by nobody: one key each.
        while sum(1 for _ in self._results.scan_iter(count=10_000)) < count:
            pause.wait(0.01)

    def round_trip(self, *, coroutine: bool = False) -> None:
        assert self._tasks.noop.send().get_result(block=True, timeout=_TIMEOUT_MS) == 1

    def chain(self, length: int) -> None:
        step = self._tasks.step
        steps = dramatiq.pipeline([step.message(0), *(step.message() for _ in range(length - 1))])
        assert steps.run().get_result(block=True, timeout=_TIMEOUT_MS) == length

    def pids(self) -> list[int]:
        return self._redis.program.pids() + ([] if self._worker is None else self._worker.pids())

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
        self._redis.stop()
