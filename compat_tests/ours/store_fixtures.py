"""Databases for the store's contract tests: one empty database per test, on every server there is."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from celerylite import _store
from celerylite._message import Message
from celerylite._store import Claim, Delivery, Outgoing, ResultRow, Settlement
from celerylite._store.sql import SqlStore

POSTGRESQL = os.environ.get("CELERYLITE_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")
MYSQL = os.environ.get("CELERYLITE_TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:3306/test")

#: Seconds after which something that should have happened counts as not happening.
DEADLINE_S = 10.0

Opener = Callable[..., SqlStore]


def make_url(kind: str, tmp_path: Path) -> Iterator[str]:
    """An empty database of that kind, dropped afterwards. Skips where the server is missing, fails in CI."""
    if kind == "memory":
        yield "sqlite://"
    elif kind == "sqlite":
        yield f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    else:
        yield from _on_server(POSTGRESQL if kind == "postgresql" else MYSQL, kind)


def _on_server(url: str, kind: str) -> Iterator[str]:
    base = sa.make_url(url)
    driver = "postgresql+psycopg" if kind == "postgresql" else "mysql+pymysql"
    engine = sa.create_engine(
        base.set(drivername=driver), isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
    )
    name = f"store_{uuid.uuid4().hex[:12]}"
    try:
        connection = engine.connect()
    except sa.exc.OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"{kind} does not answer: {error}")
    with connection:
        if kind == "postgresql":
            connection.exec_driver_sql(f"CREATE SCHEMA {name}")
            own = base.update_query_dict({"options": f"-csearch_path={name}"})
        else:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
            own = base.set(database=name)
        try:
            yield own.render_as_string(hide_password=False)
        finally:
            cascade = " CASCADE" if kind == "postgresql" else ""
            connection.exec_driver_sql(f"DROP SCHEMA {name}{cascade}")
    engine.dispose()


def make_opener(url: str, opened: list[SqlStore]) -> Opener:
    """Opens stores on one database and remembers them, to be closed."""

    def opener(**options: Any) -> SqlStore:
        store = _store.open_store(url, **options)
        assert isinstance(store, SqlStore)
        opened.append(store)
        return store

    return opener


@pytest.fixture(params=["memory", "sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind, for modules that import it."""
    yield from make_url(request.param, tmp_path)


@pytest.fixture
def opener(url: str) -> Iterator[Opener]:
    """Opens stores on the database at the fixture `url`, and closes them at the end."""
    opened: list[SqlStore] = []
    yield make_opener(url, opened)
    for store in opened:
        store.close()
    assert not [each for each in threading.enumerate() if each.name.startswith("celerylite-")]


@pytest.fixture
def store(opener: Opener) -> SqlStore:
    """A store that a runtime called "me" has joined."""
    store = opener()
    join(store, "me")
    return store


def message(task_id: str = "", **changes: Any) -> Message:
    values: dict[str, Any] = {
        "id": task_id or str(uuid.uuid4()),
        "name": "proj.add",
        "queue": "celery",
        "headers": {"task": "proj.add", "retries": 0},
        "properties": {"correlation_id": task_id},
        "body": "[[1, 2], {}, {}]",
        "content_type": "application/json",
        "content_encoding": "utf-8",
    }
    return Message(**{**values, **changes})


def out(task_id: str = "", *, owner: str | None = None, running: bool = False, **changes: Any) -> Outgoing:
    claim = None if owner is None else Claim(owner=owner, running=running)
    return Outgoing(message=message(task_id, **changes), claim=claim)


def soon(begin: Callable[..., None], *args: Any) -> Future[Any]:
    """What a method that tells its outcome to a callback came to."""
    future: Future[Any] = Future()

    def done(value: Any, error: BaseException | None) -> None:
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(error)

    begin(*args, done)
    return future


@contextmanager
def writing(store: SqlStore, task_id: str) -> Iterator[Future[list[Any]]]:
    """Inside, a thread publishes a call and is in the middle of its transaction; yields what comes of it."""
    entered, release = threading.Event(), threading.Event()

    def hold(sql: str) -> None:
        store.database.on_statement = None
        entered.set()
        assert release.wait(DEADLINE_S)

    store.database.on_statement = hold
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(store.publish, [out(task_id)])
        assert entered.wait(DEADLINE_S)
        try:
            yield published
        finally:
            release.set()


def started(store: SqlStore, task_id: str = "", owner: str = "me") -> Delivery:
    """A delivery that runs in `owner`."""
    (delivery,) = store.publish([out(task_id, owner=owner, running=True)])
    assert isinstance(delivery, Delivery)
    return delivery


def success(delivery: Delivery, **changes: Any) -> Settlement:
    row = ResultRow(task_id=delivery.message.id, status="SUCCESS", result=b"3")
    return Settlement(**{"delivery": delivery, "results": (row,), **changes})


def join(store: SqlStore, owner: str, **changes: Any) -> None:
    row = _store.this_process(owner, f"celery@{owner}", os.getpid(), None)
    values = {name: getattr(row, name) for name in row.__slots__}
    store.join(_store.WorkerRow(**{**values, **changes}))


def alive(_: object) -> bool:
    return False
