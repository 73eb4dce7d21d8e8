"""Huey on SQLite, its consumer in the caller's process; its defaults but for how often it polls."""

from __future__ import annotations

import threading
from typing import Any

from huey import SqliteHuey

from compat_tests.bench.contenders import Contender

__all__ = ("make",)

#: Huey looks for work every 0.1 s to 10 s by default, which would measure nothing but itself.
_POLL_S = 0.001


def make(variant: str) -> Contender:
    """There is one variant."""
    return Huey()


class Huey(Contender):
    """`synchronous=OFF`, as Huey opens its file: it survives a killed process, not a power cut."""

    def __init__(self) -> None:
        self._huey: Any = SqliteHuey("bench", filename="huey.sqlite3")
        self._noop = self._huey.task()(_noop)
        self._pause = self._huey.task()(_pause)
        self._step = self._huey.task()(_step)
        self._consumer: Any = None

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        self._consumer = self._huey.create_consumer(
            workers=concurrency or 4, initial_delay=_POLL_S, max_delay=_POLL_S, backoff=1.0, periodic=False
        )
        self._consumer.start()

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._noop()

    def publish_pauses(self, count: int, *, coroutines: bool) -> None:
        for _ in range(count):
            self._pause()

    def wait(self, count: int) -> None:
        pause = threading.Event()
        while self._huey.result_count() < count:
            pause.wait(0.01)

    def round_trip(self, *, coroutine: bool = False) -> None:
        assert _wait_for(self._noop()) == 1

    def chain(self, length: int) -> None:
        pipeline = self._step.s(0)
        for _ in range(length - 1):
            pipeline = pipeline.then(self._step)
        results = self._huey.enqueue(pipeline)
        assert _wait_for(results)[-1] == length

    def stop(self) -> None:
        if self._consumer is not None:
            self._consumer.stop(graceful=False)


def _wait_for(result: Any) -> Any:
    # Kept, as others keep theirs: Huey would remove what has been read.
    return result.get(blocking=True, timeout=60, backoff=1, max_delay=_POLL_S, preserve=True)


def _noop() -> int:
    return 1


def _pause() -> int:
    threading.Event().wait(0.05)
    return 1


def _step(number: int) -> int:
    return number + 1
