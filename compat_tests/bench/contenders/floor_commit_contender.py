"""The floor under durable publishing on SQLite: one row of the size of a message, with the sqlite3 module."""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor

from compat_tests.bench.contenders import Contender

__all__ = ("ROW", "make")

#: As large as the message of a no-op: id, name, queue, times and states, headers, properties, body.
ROW = ("7" * 36, "bench.noop", "celery", 0, 1, 1.5e9, "h" * 450, "p" * 185, "b" * 80)
_TABLE = (
    "CREATE TABLE messages (id INTEGER PRIMARY KEY, task_id TEXT, name TEXT, queue TEXT, turn INTEGER,"
    " state INTEGER, created_at REAL, headers TEXT, properties TEXT, body BLOB)"
)
_INSERT = (
    "INSERT INTO messages (task_id, name, queue, turn, state, created_at, headers, properties, body)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def make(variant: str) -> Contender:
    """There is one variant."""
    return BareCommit()


class BareCommit(Contender):
    """WAL and `synchronous=NORMAL`, as celerylite's default; no index but the primary key."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("floor.sqlite3", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.execute(_TABLE)
        self._waiting: list[asyncio.Future[None]] = []
        self._writer = ThreadPoolExecutor(1)

    def publish(self, count: int) -> None:
        execute = self._database.execute
        for _ in range(count):
            execute("BEGIN IMMEDIATE")
            execute(_INSERT, ROW)
            execute("COMMIT")

    def publish_together(self, callers: int, count: int) -> None:
        async def all_callers() -> None:
            await asyncio.gather(*(self._caller(count // callers) for _ in range(callers)))

        asyncio.run(all_callers())

    async def _caller(self, count: int) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(count):
            future = loop.create_future()
            self._waiting.append(future)
            if len(self._waiting) == 1:
                loop.call_soon(self._flush, loop)
            await future

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting, []
        written = loop.run_in_executor(self._writer, self._write, len(batch))
        written.add_done_callback(lambda _: _wake(batch))

    def _write(self, count: int) -> None:
        self._database.execute("BEGIN IMMEDIATE")
        self._database.executemany(_INSERT, [ROW] * count)
        self._database.execute("COMMIT")

    def stop(self) -> None:
        self._writer.shutdown()
        self._database.close()


def _wake(callers: list[asyncio.Future[None]]) -> None:
    for caller in callers:
        caller.set_result(None)
