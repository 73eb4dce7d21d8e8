"""Places: whatever goes wrong while one is taken, it is free again afterwards, once."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from celerylite import Celery, _store, signals
from celerylite._store import MessageState
from celerylite.backends.base import BaseBackend
from celerylite.worker import Runtime
from celerylite.worker._pools import ThreadPool
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp
from compat_tests.ours.store_fixtures import join, message, started


def runtime_of(app: Celery) -> Runtime:
    assert app._runtime is not None
    return app._runtime


def failing_once(error: Exception, *parts: str) -> Callable[[str], None]:
    """What raises before the first statement that contains all `parts`."""
    left = [error]

    def look(sql: str) -> None:
        if left and all(part in sql for part in parts):
            raise left.pop()

    return look


# -- threads -------------------------------------------------------------------------------------------


def test_a_thread_that_was_given_up_is_replaced_also_after_jobs_that_waited_for_it() -> None:
    pool = ThreadPool("review", 1)
    first, second, stuck, go_on, last = (threading.Event() for _ in range(5))

    def stay() -> None:
        stuck.set()
        go_on.wait(DEADLINE_S)

    pool.submit(lambda: _wait(first))
    pool.submit(second.set)
    first.set()
    assert second.wait(DEADLINE_S)
    pool.submit(stay)
    assert stuck.wait(DEADLINE_S)
    pool.replace_one()
    pool.submit(last.set)
    replaced = last.wait(4.0)
    go_on.set()
    assert pool.stop()
    assert replaced


def test_a_pool_that_shrank_grows_again() -> None:
    pool = ThreadPool("review", 2)
    gates = [threading.Barrier(3, timeout=DEADLINE_S) for _ in range(2)]

    def meet(gate: threading.Barrier) -> None:
        gate.wait()

    for gate in gates:
        pool.submit(lambda gate=gate: meet(gate))  # type: ignore[misc]
        pool.submit(lambda gate=gate: meet(gate))  # type: ignore[misc]
        gate.wait()
        pool.resize(1)
        pool.resize(2)
    assert pool.stop()


# -- decisions from outside ----------------------------------------------------------------------------


class Refusing(BaseBackend):
    """A result backend that does not answer the first time."""

    answers: ClassVar[list[bool]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.states: dict[str, Any] = {}

    def _store_result(self, task_id: Any, result: Any, state: Any, *args: Any, **kwargs: Any) -> Any:
        if not self.answers:
            self.answers.append(True)
            raise ConnectionResetError("the backend is away")
        self.states[task_id] = state
        return result


def test_a_time_limit_whose_outcome_cannot_be_stored_at_first_costs_no_place(
    make_app: MakeApp, gate: Gate, journal: Journal
) -> None:
    Refusing.answers.clear()
    app = make_app(worker_concurrency=1)
    app.backend_cls = Refusing

    @app.task(time_limit=0.05, max_retries=0)
    def stay() -> None:
        gate.wait()

    @app.task
    def after() -> None:
        journal.note("after")

    stay.delay()
    gate.until_arrived(1)
    after.delay()
    journal.until("after")
    gate.open()
    app.drain(DEADLINE_S)
    assert app.store.unfinished() == {}


def test_who_terminates_a_call_that_is_being_turned_away_gives_no_place_twice(
    make_app: MakeApp, gate: Gate, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(worker_concurrency=1)

    @app.task
    def stay() -> None:
        gate.wait()

    class TerminateToo(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            runtime = runtime_of(app)
            turned_away = [x for x in runtime.running() if record.getMessage().endswith(f"[{x.id}]")]
            if turned_away and "Discarding" in record.msg:
                runtime.terminate(turned_away[0], 15)
                journal.note("turned away")

    handler = TerminateToo()
    logger = logging.getLogger("celery.worker.request")
    logger.addHandler(handler)
    caplog.set_level(logging.INFO, logger.name)
    stay.delay()
    gate.until_arrived(1)
    held = stay.delay()
    held.revoke()
    try:
        journal.until("turned away")
    finally:
        logger.removeHandler(handler)
    assert runtime_of(app)._slots.counts() == (1, 0)
    gate.open()
    app.drain(DEADLINE_S)


# -- a database that fails in the middle ---------------------------------------------------------------


def test_a_message_that_could_not_be_begun_is_begun_later(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=1)

    @app.task
    def work(n: int) -> int:
        gate.wait()
        return n

    first = work.delay(1)
    gate.until_arrived(1)
    second = work.delay(2)
    app.store.database.on_statement = failing_once(  # type: ignore[attr-defined]
        sqlite3.DatabaseError("malformed for a moment"), "SET state=3"
    )
    gate.open()
    assert first.get(timeout=DEADLINE_S) == 1
    assert second.get(timeout=DEADLINE_S) == 2
    app.drain(DEADLINE_S)


def test_held_messages_that_were_revoked_are_turned_away_though_the_look_at_others_fails(
    make_app: MakeApp, gate: Gate, journal: Journal, receive: Callable[..., Any]
) -> None:
    app = make_app(worker_concurrency=1)

    @app.task
    def work() -> None:
        gate.wait()

    receive(signals.task_revoked, lambda request, **_: journal.note(request.id))
    work.delay()
    gate.until_arrived(1)
    held = work.delay()
    app.store.database.on_statement = failing_once(  # type: ignore[attr-defined]
        sqlite3.DatabaseError("malformed for a moment"), "state = 0", "task_id IN"
    )
    held.revoke()
    journal.until(held.id)


@pytest.mark.parametrize("what", ["pause", "stop"])
def test_held_messages_go_back_though_the_database_was_away_when_they_were_to(
    make_app: MakeApp, gate: Gate, what: str
) -> None:
    app = make_app(worker_concurrency=1, broker_connection_timeout=0.1)

    @app.task
    def work() -> None:
        gate.wait()

    work.delay()
    gate.until_arrived(1)
    work.delay()
    app.store.database.on_statement = failing_once(  # type: ignore[attr-defined]
        sqlite3.OperationalError("disk I/O error"), "SET state=1", "deliveries - "
    )
    if what == "pause":
        runtime_of(app).pause("celery")
    else:
        app.stop_runtime(grace=0.0)
    assert app.store.unfinished().get(MessageState.READY) == 1
    gate.open()


def test_what_was_taken_over_is_told_of_though_the_next_owner_cannot_be_reached(tmp_path: Path) -> None:
    store: Any = _store.open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", publish_timeout=0.1)
    try:
        for owner in ("a", "b"):
            join(store, owner)
            started(store, f"task of {owner}", owner)
        join(store, "me")
        writes = [0]

        def fail_the_second(sql: str) -> None:
            writes[0] += sql.startswith("DELETE FROM celerylite_workers")
            if writes[0] > 1:
                raise sqlite3.OperationalError("disk I/O error")

        store.database.on_statement = fail_the_second
        first = store.rescue("me", lambda worker: worker.owner != "me")
        store.database.on_statement = None
        second = store.rescue("me", lambda worker: worker.owner != "me")
        assert sorted(each.message.id for each in [*first, *second]) == ["task of a", "task of b"]
    finally:
        store.close()


def test_an_execution_that_ends_does_not_hide_the_next_of_the_same_message(file_app: Celery) -> None:
    @file_app.task
    def work() -> None: ...

    work.delay().get(timeout=DEADLINE_S)
    file_app.drain(DEADLINE_S)
    runtime = runtime_of(file_app)
    delivery = _store.Delivery(row=4711, token="t", message=message("again"))
    before, after = runtime.execution(delivery), runtime.execution(delivery)
    runtime.forget_execution(before)
    assert runtime.running() == [after]
    runtime.forget_execution(after)


def _wait(event: threading.Event) -> None:
    event.wait(DEADLINE_S)
