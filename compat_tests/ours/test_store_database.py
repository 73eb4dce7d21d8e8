"""The store and its database: Celery's tables, old and new schemas, the caller's transactions, failures."""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from celery import Celery
from kombu.exceptions import OperationalError
from sqlalchemy.orm import Session

from celerylite import _clock, _store
from celerylite._store import Delivery, MessageState, ResultRow, RunRow, schema
from celerylite._store.behind import PublishBehind
from celerylite._store.engine import Transaction
from celerylite._store.sql import SqlStore
from celerylite.exceptions import ImproperlyConfigured, SchemaTooNew
from compat_tests.ours.store_fixtures import (
    DEADLINE_S,
    Opener,
    join,
    make_url,
    opener,
    out,
    started,
    success,
)

__all__ = ("opener",)


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from make_url(request.param, tmp_path)


def celery_app(store: SqlStore, **settings: object) -> Celery:
    url = store.database.url.render_as_string(hide_password=False)
    return Celery("real", broker="memory://", backend=f"db+{url}", set_as_current=False, **settings)


# -- Celery's tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True])
def test_celery_reads_what_we_wrote(opener: Opener, extended: bool) -> None:
    store = opener()
    store.save_result(
        ResultRow(
            task_id="t", status="SUCCESS", result=b'{"a": 1}', name="proj.add", args=b"[1]", kwargs=b"{}"
        )
    )
    store.save_group("g", b"[]")
    backend = celery_app(store, result_extended=extended).backend
    meta = backend.get_task_meta("t")
    assert (meta["status"], meta["result"]) == ("SUCCESS", {"a": 1})
    if extended:
        assert (meta["name"], meta["args"]) == ("proj.add", [1])


@pytest.mark.parametrize("extended", [False, True])
def test_we_read_what_celery_wrote_into_tables_of_its_own(url: str, opener: Opener, extended: bool) -> None:
    parsed = sa.make_url(url)
    driver = {"postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}.get(
        parsed.get_backend_name(), "sqlite"
    )
    address = parsed.set(drivername=driver).render_as_string(hide_password=False)
    app = Celery(
        "real", broker="memory://", backend=f"db+{address}", set_as_current=False, result_extended=extended
    )
    app.backend.store_result("t", {"a": 1}, "SUCCESS")
    store = opener()
    row = store.get_result("t")
    assert row is not None
    assert (row.status, row.result) == ("SUCCESS", b'{"a": 1}')
    # The table stays Celery's: both go on writing to it.
    store.save_result(ResultRow(task_id="ours", status="FAILURE", result=b"{}", name="proj.add"))
    app.backend.store_result("theirs", 2, "SUCCESS")
    assert app.backend.get_state("ours") == "FAILURE"
    assert store.get_results(["ours", "theirs"])["theirs"].result == b"2"


def test_a_table_without_the_extended_columns_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "old.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.execute(
            "CREATE TABLE celery_taskmeta (id INTEGER PRIMARY KEY AUTOINCREMENT, task_id VARCHAR(155) "
            "UNIQUE, status VARCHAR(50), result BLOB, date_done DATETIME, traceback TEXT)"
        )
    connection.close()
    store = _store.open_store(f"sqlite:///{path}")
    store.save_result(ResultRow(task_id="t", status="SUCCESS", result=b"1", name="n", children=b"[]"))
    row = store.get_result("t")
    assert row is not None
    assert (row.status, row.name, row.children) == ("SUCCESS", None, None)
    store.close()
    connection = sqlite3.connect(path)
    columns = [each[1] for each in connection.execute("PRAGMA table_info(celery_taskmeta)")]
    connection.close()
    assert columns == ["id", "task_id", "status", "result", "date_done", "traceback"]


def test_celerys_tables_can_have_other_names(opener: Opener) -> None:
    opener()
    store = opener(table_names={"task": "my_results", "group": "my_groups"})
    store.save_result(ResultRow(task_id="t", status="SUCCESS", result=b"1"))
    store.save_group("g", b"[]")
    assert store.get_result("t") is not None
    app = celery_app(store, database_table_names={"task": "my_results", "group": "my_groups"})
    try:
        assert app.backend.get_state("t") == "SUCCESS"
    finally:
        # Celery renames its tables for the whole process.
        app.backend.task_cls.configure(name=None)
        app.backend.taskset_cls.configure(name=None)


# -- versions ---------------------------------------------------------------------------------------


def test_a_newer_schema_is_refused(opener: Opener) -> None:
    store = opener()
    newer = "UPDATE celerylite_meta SET value = '99' WHERE name = 'schema_version'"
    store.database.write(lambda tx: tx.execute_text(newer))
    with pytest.raises(SchemaTooNew, match=f"expected version {schema.SCHEMA_VERSION} or older, got 99"):
        opener()


def test_opening_again_keeps_everything(opener: Opener) -> None:
    opener().publish([out("t")])
    assert [each.message.id for each in opener().waiting(10)] == ["t"]


# -- the caller's transaction -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["connection", "session"])
@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_message_in_the_callers_transaction_shares_its_fate(opener: Opener, kind: str, ending: str) -> None:
    store = opener()
    join(store, "me")
    heard = threading.Event()
    end = store.on_new_messages(heard.set)
    engine = sa.create_engine(store.database.url, poolclass=sa.pool.NullPool)
    with Session(engine) if kind == "session" else engine.connect() as mine:
        store.publish_in(mine, [out("t", owner="me"), out("later", due_at=_clock.time() + 100)])
        getattr(mine, ending)()
    if ending == "commit":
        while not (found := store.claim("me", None, 10).deliveries):
            assert heard.wait(DEADLINE_S)
            heard.clear()
        assert [each.message.id for each in found] == ["t"]
        assert store.next_due() is not None
    else:
        assert store.unfinished() == {}
    end()
    engine.dispose()


# -- failures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_a_database_that_is_away_raises_after_a_limited_time(scheme: str) -> None:
    with pytest.raises(OperationalError, match=r"expected it to answer within 0\.2 s") as caught:
        _store.open_store(f"db+{scheme}://nobody:secret@127.0.0.1:1/none", publish_timeout=0.2)
    assert caught.value.__cause__ is not None
    assert "secret" not in str(caught.value)


def test_a_lost_connection_is_made_anew(opener: Opener) -> None:
    store = opener()
    store.publish([out("before")])
    for each in [*store.database._idle, store.database._writer]:
        if each is not None and not store.database.dialect.single_writer:
            # As after a restart of the server: the socket is dead and nobody was told.
            os_close(each.connection)
    store.publish([out("after")])
    assert store.queue_lengths() == {"celery": 2}


def test_a_connection_that_could_not_be_made_ready_is_closed(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = opener().database
    made: list[int] = []
    closed: list[int] = []
    sa.event.listen(database.engine, "connect", lambda raw, record: made.append(id(raw)))
    sa.event.listen(database.engine, "close", lambda raw, record: closed.append(id(raw)))

    def cut(*_: object) -> None:
        raise ConnectionResetError("cut")

    monkeypatch.setattr(database.dialect, "on_connect", cut)
    idle: list[Any] = []
    with pytest.raises(ConnectionResetError) as kept:
        idle.extend(iter(database.take, None))
    assert len(made) == 1
    assert closed == made, f"expected no connection open although {kept.value!r} is still there"
    for connection in idle:
        database.put(connection)


@pytest.mark.parametrize("table", ["INSERT INTO celerylite_messages", "UPDATE celerylite_messages"])
def test_a_connection_lost_in_the_middle_of_one_statement_does_not_write_twice(
    opener: Opener, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opener()
    if store.database.dialect.single_writer:
        pytest.skip("there is no connection to lose")
    execute = Transaction.execute_text
    lost: list[str] = []

    def lose_the_answer(tx: Transaction, sql: str, parameters: Any = ()) -> None:
        execute(tx, sql, parameters)
        if sql.startswith(table) and not lost:
            lost.append(sql)
            os_close(tx.connection.connection)
            tx.cursor.execute("SELECT 1")

    monkeypatch.setattr(Transaction, "execute_text", lose_the_answer)
    (mine,) = store.publish([out("once", owner="me")])
    assert isinstance(mine, Delivery)
    assert store.begin([mine]) == {mine.row}
    assert lost
    assert store.unfinished() == {MessageState.RUNNING: 1}
    assert store.settle(success(mine)) == []


@pytest.mark.parametrize("has_run", [False, True])
def test_a_call_that_others_took_while_its_answer_was_lost_is_not_sent_again(
    opener: Opener, monkeypatch: pytest.MonkeyPatch, has_run: bool
) -> None:
    store, other = opener(), opener()
    if store.database.dialect.single_writer:
        pytest.skip("there is no connection to lose")
    execute = Transaction.execute_text
    lost: list[str] = []

    def lose_the_answer(tx: Transaction, sql: str, parameters: Any = ()) -> None:
        execute(tx, sql, parameters)
        if sql.startswith("INSERT INTO celerylite_messages") and not lost:
            lost.append(sql)
            other.rescue("heir", lambda _: True)
            if has_run:
                (delivery,) = other.claim("heir", None, 1).deliveries
                other.begin([delivery])
                other.settle(
                    success(
                        delivery,
                        run=RunRow(task_id="t", name="n", state="SUCCESS", finished_at=_clock.time()),
                    )
                )
            os_close(tx.connection.connection)
            tx.cursor.execute("SELECT 1")

    monkeypatch.setattr(Transaction, "execute_text", lose_the_answer)
    assert store.publish([out("t", owner="me")]) == [None]
    assert lost
    assert store.unfinished() == ({} if has_run else {MessageState.READY: 1})


@pytest.mark.parametrize("call", ["publish", "settle"])
def test_a_connection_lost_in_the_middle_of_a_commit_does_not_write_twice(opener: Opener, call: str) -> None:
    store = opener()
    if store.database.dialect.single_writer:
        pytest.skip("there is no connection to lose")
    delivery = started(store, "t")
    (connection,) = store.database._idle

    def lose_the_answer(sql: str) -> None:
        if sql == "COMMIT":
            store.database.on_statement = None
            connection.cursor().execute("COMMIT")
            os_close(connection.connection)

    store.database.on_statement = lose_the_answer
    if call == "publish":
        mine, _ = store.publish([out("once", owner="me"), out("other", owner="me")])
    else:
        (mine,) = store.settle(success(delivery, publish=(out("once", owner="me"),)))
    assert isinstance(mine, Delivery)
    assert store.begin([mine]) == {mine.row}
    assert sum(store.unfinished().values()) == (3 if call == "publish" else 1)


def test_calls_of_which_one_is_too_long_for_the_server_are_refused_and_no_outage(opener: Opener) -> None:
    store = opener()
    if store.database.dialect.name != "mysql":
        pytest.skip("only MySQL and MariaDB hang up on long statements")
    with pytest.raises(pymysql.err.DataError, match="max_allowed_packet"):
        store.publish([out("a"), out("b", body="x" * 40_000_000), out("c")])
    assert store.unfinished() == {}


def os_close(connection: object) -> None:
    if hasattr(connection, "pgconn"):
        connection.pgconn.finish()
    else:
        # Closing would leave it open: the driver reads by a file that is made of it.
        connection._sock.shutdown(socket.SHUT_RDWR)  # type: ignore[attr-defined]


def test_a_locked_file_raises_after_a_limited_time_and_then_works(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    store = _store.open_store(f"sqlite:///{path}", publish_timeout=0.1)
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperationalError, match="locked"):
        store.publish([out("t")])
    blocker.execute("ROLLBACK")
    blocker.close()
    store.publish([out("t")])
    assert store.queue_lengths() == {"celery": 1}
    store.close()


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"expected an existing directory, got '.*missing'.*create it"
    ):
        _store.open_store(f"sqlite:///{tmp_path / 'missing' / 'jobs.sqlite3'}")


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests may run as root, whom permissions do not stop.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(ImproperlyConfigured, match=r"got no permission for .*name another file"):
        _store.open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")


@pytest.mark.parametrize("bad", ["redis://x", "oracle://x/y", "nonsense"])
def test_a_url_that_is_no_database_of_ours_is_refused(bad: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="database: expected"):
        _store.open_store(bad)


def test_calls_behind_that_shared_a_lost_transaction_do_not_vouch_for_each_other(opener: Opener) -> None:
    store = opener()
    calls = [
        PublishBehind(store._writer, store._insert, [out(name)], lambda published, error: None)
        for name in ("first", "second")
    ]

    def together(tx: Transaction) -> None:
        for call in calls:
            call._attempt(tx)
        raise ValueError("lost")

    with pytest.raises(ValueError, match="lost"):
        store.database.write(together)
    store.database.write(calls[0]._attempt)
    (delivery,) = store.claim("me", None, 1).deliveries
    store.settle(success(delivery))
    store.database.write(calls[1]._attempt)
    assert store.queue_lengths() == {"celery": 1}


def test_one_call_in_a_hundred_does_not_wait_for_the_disk(tmp_path: Path) -> None:
    store = _store.open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    assert isinstance(store, SqlStore)
    (pages,) = store.database.take().connection.execute("PRAGMA wal_autocheckpoint").fetchone()
    # A call and its outcome change about ten pages.
    assert pages >= 2000
    store.close()


def test_durability_full_reaches_sqlite(tmp_path: Path) -> None:
    for durability, level in (("normal", 1), ("full", 2)):
        store = _store.open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}", durability=durability)
        assert isinstance(store, SqlStore)
        assert store.database.take().connection.execute("PRAGMA synchronous").fetchone() == (level,)
        store.close()
    with pytest.raises(ImproperlyConfigured, match="'normal' or 'full', got 'half'"):
        _store.open_store("sqlite://", durability="half")


# -- cost -------------------------------------------------------------------------------------------


def test_claims_read_indexes_however_much_waits(tmp_path: Path) -> None:
    store = _store.open_store(f"sqlite:///{tmp_path / 'jobs.sqlite3'}")
    assert isinstance(store, SqlStore)
    seen: list[str] = []
    store.publish([out(), out(due_at=_clock.time() - 1), out(due_at=_clock.time() + 60)])
    store.database.on_statement = seen.append
    store.claim("me", None, 10)
    store.database.on_statement = None
    reads = [sql for sql in seen if sql.startswith("SELECT")]
    assert len(reads) >= 5
    connection = store.database.take().connection
    for sql in reads:
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql}", ["x"] * sql.count("?")).fetchall())
        assert "SCAN celerylite_messages'" not in plan, (sql, plan)
        assert "TEMP B-TREE" not in plan, (sql, plan)
    store.close()
