"""A database that does not answer for a while: nothing is dropped, and places are free again afterwards."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celerylite import Celery
from celerylite._store import open_store
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp, rows, states_of


@pytest.fixture
def impatient_app(make_app: MakeApp, database: Path) -> Celery:
    """An app of one place whose publishing gives up at once."""
    app = make_app(worker_concurrency=1)
    app._store = open_store(f"sqlite:///{database}", publish_timeout=0.02)
    return app


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Nobody else can write."""
    connection = sqlite3.connect(database, isolation_level=None)
    connection.execute("begin immediate")
    try:
        yield
    finally:
        connection.execute("rollback")
        connection.close()


def test_a_call_that_cannot_be_committed_raises_and_takes_no_place(
    impatient_app: Celery, database: Path
) -> None:
    @impatient_app.task
    def work(n: int) -> int:
        return n

    runtime = impatient_app.start_runtime()
    assert work.delay(0).get(timeout=DEADLINE_S) == 0
    impatient_app.drain(DEADLINE_S)
    with locked(database):
        for n in range(3):
            with pytest.raises(OperationalError):
                work.delay(n)

        async def publish() -> None:
            with pytest.raises(OperationalError):
                await work.adelay(9)

        asyncio.run(publish())
    assert runtime._slots.counts() == (0, 0)
    assert rows(database, "select * from celerylite_messages") == []
    assert work.delay(1).get(timeout=DEADLINE_S) == 1


def test_a_task_that_ends_meanwhile_is_settled_afterwards(
    impatient_app: Celery, database: Path, gate: Gate, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Noting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            journal.note(record.getMessage().partition(",")[0])

    monkeypatch.setattr(logging.getLogger("celery.store"), "handlers", [Noting()])

    @impatient_app.task
    def work() -> str:
        gate.wait()
        return "done"

    @impatient_app.task
    def after(value: str) -> str:
        return value + " and followed"

    result: Any = work.apply_async(link=after.s())
    gate.until_arrived(1)
    with locked(database):
        gate.open()
        journal.until("the database does not answer")
        assert states_of(database) == {}
    assert result.get(timeout=DEADLINE_S) == "done"
    impatient_app.drain(DEADLINE_S)
    assert sorted(states_of(database).values()) == ["SUCCESS", "SUCCESS"]
    assert journal.count("the database does not answer") == 1
    assert journal.count("the database answers again") == 1
