"""`celerylite_durability = "memory"`: calls return before they are committed; only a kill loses them."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from celerylite import Celery
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, StartProgram, rows


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app(celerylite_durability="memory")


def test_a_call_kept_in_memory_returns_while_the_database_is_locked(app: Celery, database: Path) -> None:
    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    assert add.delay(1, 1).get(timeout=DEADLINE_S) == 2
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    result = add.delay(2, 2)
    assert other.execute("SELECT count(*) FROM celerylite_messages").fetchone() == (0,)
    other.execute("COMMIT")
    other.close()
    assert result.get(timeout=DEADLINE_S) == 4


def test_drain_and_results_include_what_is_not_committed_yet(app: Celery) -> None:
    ran: list[int] = []

    @app.task
    def note(number: int) -> int:
        ran.append(number)
        return number

    results = [note.delay(number) for number in range(100)]
    app.drain(DEADLINE_S)
    assert sorted(ran) == list(range(100))
    assert [result.get(timeout=DEADLINE_S) for result in results] == list(range(100))


def test_a_call_with_a_key_is_told_who_holds_it(app: Celery) -> None:
    @app.task
    def once() -> None: ...

    first = once.apply_async(countdown=3600, unique_key="one")
    assert once.apply_async(countdown=3600, unique_key="one").id == first.id


def test_a_program_that_only_publishes_leaves_its_calls_in_the_database(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program("""
app.conf.update(celerylite_durability="memory", celerylite_runtime="off", celerylite_batch_window=5.0)
for number in range(20):
    app.send_task("elsewhere", (number,))
""")
    assert program.end() == 0
    assert program.errors == ""
    assert rows(database, "SELECT count(*) FROM celerylite_messages") == [(20,)]


def test_a_call_that_no_row_can_hold_is_told_to_the_log(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    app.conf.celerylite_runtime = "off"
    store = app.store
    app.send_task("fine")

    def refuse(sql: str) -> None:
        if sql.startswith("INSERT INTO celerylite_messages"):
            raise ValueError("no such row")

    store.database.on_statement = refuse  # type: ignore[attr-defined]
    sent = app.send_task("refused")
    store.flush()
    store.database.on_statement = None  # type: ignore[attr-defined]
    assert f"refused[{sent.id}]: no such row" in caplog.text
