"""A database of an earlier version: opening it brings its tables up to date and keeps what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from celerylite._store import ChordPart, PeriodicRow, RunRow, schema
from celerylite._store.sql import SqlStore
from compat_tests.ours.store_fixtures import Opener, join, make_url, opener, out, started, success

__all__ = ("opener",)

#: What each version added to the one before it: a column, or (None) a table.
_ADDED: dict[int, list[tuple[str, str | None]]] = {
    2: [("celerylite_periodic", name) for name in ("app", "task", "last_task_id", "buffered_at")],
    3: [("celerylite_runs", "message")],
    4: [(f"celerylite_{name}", None) for name in ("unique", "places", "parked")],
}


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from make_url(request.param, tmp_path)


def columns(store: SqlStore) -> dict[str, set[str]]:
    inspector = sa.inspect(store.database.engine)
    return {
        table: {column["name"] for column in inspector.get_columns(table)}
        for table in inspector.get_table_names()
    }


def go_back_to(version: int, store: SqlStore, halfway: bool = False) -> None:
    """Take away what came after `version`; all but one of it if an update is to have stopped `halfway`."""
    added = [each for number, names in _ADDED.items() if number > version for each in names]
    with store.database.engine.connect() as connection:
        for table, column in added[:-1] if halfway else added:
            what = f"DROP TABLE {table}" if column is None else f"ALTER TABLE {table} DROP COLUMN {column}"
            connection.exec_driver_sql(what)
        where = "WHERE name = 'schema_version'"
        connection.exec_driver_sql(f"UPDATE celerylite_meta SET value = '{version}' {where}")


def fill(store: SqlStore) -> None:
    """Something in every table that a program of that version would have written."""
    store.publish([out("waits"), out("later", due_at=4e9)])
    join(store, "me")
    part = ChordPart(group_id="g", size=2, index=0, task_id="done", state="SUCCESS", body="{}")
    run = RunRow(task_id="done", name="proj.add", state="SUCCESS", started_at=1.0, finished_at=2.0)
    store.settle(success(started(store, "done"), run=run, chord_parts=(part,)))
    started(store, "runs")
    store.add_periodic([PeriodicRow(name="nightly", last_run_at=7.0)])
    store.revoke(["unwanted"], until=4e9)


def check(store: SqlStore) -> None:
    assert sum(store.unfinished().values()) == 3
    assert [each.message.id for each in store.waiting(10)] == ["waits", "later"]
    result = store.get_result("done")
    assert result is not None
    assert (result.status, result.result) == ("SUCCESS", b"3")
    assert [(run.state, run.message) for run in store.runs("done")] == [("SUCCESS", None)]
    assert [part.task_id for part in store.chord_parts("g")] == ["done"]
    nightly = store.periodic()["nightly"]
    assert (nightly.last_run_at, nightly.enabled, nightly.app) == (7.0, True, None)
    assert store.revoked() == {"unwanted"}
    # What is new can be used.
    run = RunRow(task_id="t", name="proj.add", state="SUCCESS", started_at=1.0, finished_at=2.0, message="{}")
    store.settle(success(started(store, "t"), run=run))
    assert [run.message for run in store.runs("t")] == ["{}"]


@pytest.mark.parametrize("halfway", [False, True])
@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_schema_is_brought_up_to_date_with_all_that_is_in_it(
    opener: Opener, version: int, halfway: bool
) -> None:
    old = opener()
    fill(old)
    wanted = columns(old)
    go_back_to(version, old, halfway)
    old.close()
    store = opener()
    assert columns(store) == wanted
    check(store)


def test_processes_that_bring_a_schema_up_to_date_at_once_all_succeed(opener: Opener) -> None:
    old = opener()
    fill(old)
    wanted = columns(old)
    go_back_to(1, old)
    old.close()
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda _: opener(), range(4)))
    assert [columns(store) for store in stores] == [wanted] * 4
    check(stores[0])


def test_each_version_has_its_step_in_the_tests() -> None:
    assert max(_ADDED) == schema.SCHEMA_VERSION
