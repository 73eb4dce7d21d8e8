"""Results, groups and the history of runs in SQL. Each function runs in a given transaction."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from operator import attrgetter
from typing import Any

import sqlalchemy as sa

from celerylite import _clock, states
from celerylite._store import CorruptRow, GroupRow, ResultRow, RunRow
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction, chunks
from celerylite._store.schema import Tables

__all__ = ("Results",)

_MANY = 500

#: The states of a call that somebody has still to begin. What else a task stores, it stores while it runs.
_WAITING = (states.PENDING, states.RECEIVED, states.REJECTED, states.RETRY)


class Results:
    """Celery's two tables, and ours of past runs."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        results, bind = tables.results, sa.bindparam
        self._columns = tables.result_columns
        self._values_of = attrgetter(*self._columns)
        has_all = len(self._columns) == len(results.c) - 1
        self._keeps_all = has_all and dialect.tells_what_is_there
        self._lengths = {"name": 155, "worker": 155, "queue": 155}
        rest = [name for name in self._columns if name != "task_id"]
        # As Celery: a result that is SUCCESS stays, whoever writes later.
        kept = results.c.status == sa.literal_column(f"'{states.SUCCESS}'")
        self._save = Statement(lambda: dialect.upsert(results, ["task_id"], rest, unless=kept))
        waits = results.c.status.in_([sa.literal_column(f"'{state}'") for state in _WAITING])
        self._save_unless_begun = Statement(
            lambda: dialect.upsert(results, ["task_id"], rest, unless=sa.not_(waits))
        )
        self._get = Statement(
            lambda: sa.select(*(results.c[name] for name in self._columns)).where(
                results.c.task_id.in_(bind("ids", expanding=True))
            )
        )
        self._ready = Statement(
            lambda: sa.select(results.c.task_id).where(
                results.c.task_id.in_(bind("ids", expanding=True)),
                results.c.status.in_(sorted(states.READY_STATES)),
            )
        )
        self._forget = Statement(lambda: results.delete().where(results.c.task_id == bind("id")))
        self._group_statements(tables, dialect)
        self._run_statements(tables)

    def _group_statements(self, tables: Tables, dialect: Dialect) -> None:
        groups, bind = tables.groups, sa.bindparam
        self._save_group = Statement(lambda: dialect.upsert(groups, ["taskset_id"], ["result", "date_done"]))
        self._get_group = Statement(
            lambda: sa.select(groups.c.result, groups.c.date_done).where(groups.c.taskset_id == bind("id"))
        )
        self._delete_group = Statement(lambda: groups.delete().where(groups.c.taskset_id == bind("id")))

    def _run_statements(self, tables: Tables) -> None:
        runs, bind = tables.runs, sa.bindparam
        self._run_columns = [column.name for column in runs.c if column.name != "id"]
        self._values_of_run = attrgetter(*self._run_columns)
        self._save_run = Statement(
            lambda: sa.insert(runs).values({name: bind(name) for name in self._run_columns}).inline()
        )
        self._runs = Statement(
            lambda: (
                sa.select(*(runs.c[name] for name in self._run_columns))
                .where(runs.c.task_id == bind("id"))
                .order_by(runs.c.id)
            )
        )

    def save(self, tx: Transaction, *rows: ResultRow) -> None:
        """Insert or replace results, each unless the one that is there is SUCCESS."""
        self._write(tx, self._save, rows)

    def save_unless_begun(self, tx: Transaction, row: ResultRow) -> None:
        """Insert or replace a result, unless the one that is there says that the call has begun or ended."""
        self._write(tx, self._save_unless_begun, (row,))

    def _write(self, tx: Transaction, statement: Statement, rows: Sequence[ResultRow]) -> None:
        if not rows:
            return
        # In the order in which everybody locks them. Sorting is stable: a task's later outcome stays later.
        rows = sorted(rows, key=attrgetter("task_id"))
        written = tx.run_many(statement, [self._values(row) for row in rows])
        # Not where a SUCCESS may have stayed, nor where the database keeps less of it than we gave.
        are_whole = written == len(rows) and self._keeps_all
        for row in rows:
            is_whole = are_whole and row.date_done is not None
            tx.changes.results[row.task_id] = row if is_whole else None

    def _values(self, row: ResultRow) -> dict[str, Any]:
        values: dict[str, Any] = dict(zip(self._columns, self._values_of(row), strict=True))
        for name, length in self._lengths.items():
            # SQLite takes any length, the others refuse: a long name must not lose the result.
            if values.get(name) is not None:
                values[name] = values[name][:length]
        if row.date_done is None:
            values["date_done"] = _naive_now()
        return values

    def save_corrupt(self, tx: Transaction, rows: Iterable[CorruptRow]) -> None:
        """FAILURE for messages that could not be read."""
        for row in rows:
            if row.task_id is None:
                continue
            error = {
                "exc_type": "DecodeError",
                "exc_message": [f"message {row.row} could not be read: {row.reason}"],
                "exc_module": "kombu.exceptions",
            }
            self.save(
                tx, ResultRow(task_id=row.task_id, status=states.FAILURE, result=json.dumps(error).encode())
            )

    def get(self, tx: Transaction, task_ids: Iterable[str]) -> dict[str, ResultRow]:
        found: dict[str, ResultRow] = {}
        for ids in chunks(dict.fromkeys(task_ids), _MANY):
            for row in tx.rows(self._get, ids=ids):
                result = ResultRow(
                    **{name: _plain(value) for name, value in zip(self._columns, row, strict=True)}
                )
                found[result.task_id] = result
        return found

    def ready(self, tx: Transaction, task_ids: Iterable[str]) -> set[str]:
        """Those of the tasks that have ended."""
        found: set[str] = set()
        for ids in chunks(task_ids, _MANY):
            found.update(row[0] for row in tx.rows(self._ready, ids=ids))
        return found

    def forget(self, tx: Transaction, task_id: str) -> None:
        tx.run(self._forget, id=task_id)
        tx.changes.results[task_id] = None

    def save_group(self, tx: Transaction, group_id: str, result: bytes) -> None:
        tx.run(self._save_group, taskset_id=group_id, result=result, date_done=_naive_now())

    def get_group(self, tx: Transaction, group_id: str) -> GroupRow | None:
        row = tx.one(self._get_group, id=group_id)
        return None if row is None else GroupRow(group_id=group_id, result=_plain(row[0]), date_done=row[1])

    def delete_group(self, tx: Transaction, group_id: str) -> None:
        tx.run(self._delete_group, id=group_id)

    def save_runs(self, tx: Transaction, runs: Iterable[RunRow]) -> None:
        rows = [dict(zip(self._run_columns, self._values_of_run(run), strict=True)) for run in runs]
        if rows:
            tx.run_many(self._save_run, rows)

    def runs(self, tx: Transaction, task_id: str) -> list[RunRow]:
        rows: Sequence[Any] = tx.rows(self._runs, id=task_id)
        return [RunRow(**dict(zip(self._run_columns, row, strict=True))) for row in rows]


def _naive_now() -> datetime:
    # As Celery: the column has no zone, what it holds is UTC.
    return _clock.utcnow().replace(tzinfo=None)


def _plain(value: Any) -> Any:
    return bytes(value) if isinstance(value, (memoryview, bytearray)) else value
