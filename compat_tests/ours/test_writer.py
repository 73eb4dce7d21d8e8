"""The writer's thread: who waits is not kept waiting by what may wait."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError

from celerylite._store.engine import Database, Transaction
from celerylite._store.writer import Writer
from compat_tests.conftest import DEADLINE_S, Journal


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    """A writer that would let work gather for a minute."""
    database = Database(f"sqlite:///{tmp_path / 'w.sqlite3'}")
    writer = Writer(database, lambda changes: None, 60.0, lambda tx, works: [work(tx) for work in works])
    yield writer
    writer.close()
    database.close()


class _Queue(deque[Any]):
    """Tells when somebody waits in it."""

    def __init__(self) -> None:
        super().__init__()
        self.used = threading.Event()

    def append(self, entry: Any) -> None:
        super().append(entry)
        self.used.set()


def let_the_thread_wait_for_more(writer: Writer, journal: Journal) -> None:
    """Leave the thread where it waits for more work that may wait, as some came before."""
    writer.run_later(lambda tx: None, lambda result, error: journal.note("first"))
    writer.run_soon(lambda tx: None, lambda result, error: journal.note("second"))
    journal.until("second")


def test_who_comes_behind_work_that_was_put_back_does_not_wait_for_the_window(
    writer: Writer, journal: Journal
) -> None:
    let_the_thread_wait_for_more(writer, journal)
    caller = threading.Thread(target=lambda: journal.note(writer.run(lambda tx: "committed")))
    queue, tries = _Queue(), []

    def away(tx: Transaction) -> None:
        tries.append(tx)
        if len(tries) == 1:
            writer._queue = queue
            caller.start()
            journal.note(("behind", queue.used.wait(DEADLINE_S)))
            raise ValueError("not together")
        raise OperationalError("away")

    writer.run_later(away, lambda result, error: journal.note(type(error)))
    writer.run_later(lambda tx: None, lambda result, error: journal.note("put back"))
    writer.nudge()
    journal.until("committed")
    caller.join()
    assert ("behind", True) in journal
    assert journal.count(OperationalError) == journal.count("put back") == 1


def test_work_gathers_again_after_a_rest(
    writer: Writer, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.run_soon(lambda tx: None, lambda result, error: journal.note("first"))
    journal.until("first")
    writer.rest()
    wait = writer._hurry.wait

    def waits(timeout: float) -> bool:
        journal.note(("hurried", writer._hurry.is_set()))
        return wait(timeout)

    monkeypatch.setattr(writer._hurry, "wait", waits)
    writer.run_later(lambda tx: None, lambda result, error: journal.note("second"))
    journal.until(("hurried", False))
    assert "second" not in journal
    writer.flush()
    journal.until("second")
