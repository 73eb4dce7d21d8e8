"""The writer under interrupts, and where no thread can be started any more."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from celerylite import _clock, _store
from celerylite._interrupts import uninterrupted
from celerylite._store.sql import SqlStore
from celerylite.exceptions import ClaimLost
from compat_tests.ours.store_fixtures import DEADLINE_S, out, soon, started, success


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    opened = _store.open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", window=60.0)
    assert isinstance(opened, SqlStore)
    yield opened
    opened.close()


@pytest.fixture
def own_handler() -> Iterator[list[int]]:
    """SIGUSR1 handled in Python: what the handler was called with."""
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGUSR1, before)


def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", start)


def test_signals_wait_for_the_end_of_a_block_and_their_handlers_are_put_back(own_handler: list[int]) -> None:
    handler = signal.getsignal(signal.SIGUSR1)
    with uninterrupted():
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGUSR1)
        assert own_handler == []
    assert own_handler == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is handler


def test_an_interrupt_while_the_main_thread_commits_for_others_comes_after_they_were_told(
    store: SqlStore,
) -> None:
    told = [soon(store.settle_later, success(started(store, str(i)))) for i in range(3)]

    def interrupt(sql: str) -> None:
        if sql == "COMMIT":
            store.database.on_statement = None
            os.kill(os.getpid(), signal.SIGINT)

    store.database.on_statement = interrupt
    # In the background of a shell it is ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            store.post("topic", "mine", until=_clock.time() + 60)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [each.result(DEADLINE_S) for each in told] == [[]] * 3
    assert [each.payload for each in store.letters(["topic"])] == ["mine"]


def test_a_signal_handler_may_publish_while_its_thread_commits(store: SqlStore) -> None:
    def publish(number: int, frame: Any) -> None:
        store.publish([out("from the handler")])

    before = signal.signal(signal.SIGUSR1, publish)
    try:

        def interrupt(sql: str) -> None:
            store.database.on_statement = None
            os.kill(os.getpid(), signal.SIGUSR1)

        store.database.on_statement = interrupt
        store.publish([out("first")])
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert store.queue_lengths() == {"celery": 2}


def test_where_no_thread_can_be_started_the_caller_commits(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliveries = [started(store, str(i)) for i in range(2)]
    with monkeypatch.context() as patch:
        no_threads(patch)
        assert soon(store.settle_later, success(deliveries[0])).result(DEADLINE_S) == []
        assert soon(store.publish_soon, [out("next")]).result(DEADLINE_S) == [None]
    told = soon(store.settle_later, success(deliveries[1]))
    store.publish([out("last")])
    assert told.result(DEADLINE_S) == []


def test_an_outage_in_the_middle_of_a_batch_costs_everybody_one_wait(tmp_path: Path) -> None:
    """The batch fails for one of its members; alone, the next one meets a database that is away."""
    store: Any = _store.open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", window=60.0, publish_timeout=0.2)
    try:
        deliveries = [started(store, str(i)) for i in range(20)]
        gone = success(_store.Delivery(row=10**6, token="gone/1", message=deliveries[0].message))
        told = [soon(store.settle_later, each) for each in [gone, *map(success, deliveries)]]

        def away(sql: str) -> None:
            if "INTO celery_taskmeta" in sql:
                raise sqlite3.OperationalError("disk I/O error")

        store.database.on_statement = away
        with ThreadPoolExecutor(1) as pool:
            pool.submit(store.flush).result(DEADLINE_S)
        errors = [each.exception(DEADLINE_S) for each in told]
        assert isinstance(errors[0], ClaimLost)
        assert all(error is not None for error in errors[1:])
    finally:
        store.database.on_statement = None
        store.close()


def test_a_child_that_is_forked_while_signals_wait_has_its_handlers(own_handler: list[int]) -> None:
    def fork() -> None:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGUSR1)
            os._exit(0 if own_handler else 1)
        ended.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    ended: list[int] = []
    with uninterrupted(), ThreadPoolExecutor(1) as pool:
        pool.submit(fork).result(DEADLINE_S)
    assert ended == [0]
