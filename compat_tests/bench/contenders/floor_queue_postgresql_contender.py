"""The same floor on PostgreSQL, with psycopg and the module `json`."""

from __future__ import annotations

import json
from typing import Any

import psycopg

from compat_tests.bench.contenders import Contender
from compat_tests.bench.contenders.floor_queue_contender import BareQueue, Outcome
from compat_tests.bench.services.postgresql import PostgresqlDatabase

__all__ = ("make",)

_TABLES = """
CREATE TABLE messages (id BIGSERIAL PRIMARY KEY, task_id TEXT, name TEXT, queue TEXT, state INTEGER,
    created_at DOUBLE PRECISION, headers TEXT, properties TEXT, body TEXT);
CREATE TABLE results (id BIGSERIAL PRIMARY KEY, task_id TEXT UNIQUE, status TEXT, result TEXT,
    done_at DOUBLE PRECISION);
CREATE TABLE runs (id BIGSERIAL PRIMARY KEY, task_id TEXT, status TEXT, began_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION);
"""
_PUBLISH = (
    "INSERT INTO messages (task_id, name, queue, state, created_at, headers, properties, body) VALUES"
    " (%(task_id)s, %(name)s, %(queue)s, %(state)s, %(created_at)s, %(headers)s, %(properties)s, %(body)s)"
    " RETURNING id"
)
_BEGIN = "UPDATE messages SET state = 2 WHERE id = %s"
_RUN = "INSERT INTO runs (task_id, status, began_at, ended_at) VALUES (%s, 'SUCCESS', %s, %s)"
_RESULT = "INSERT INTO results (task_id, status, result, done_at) VALUES (%s, 'SUCCESS', %s, %s)"
_REMOVE = "DELETE FROM messages WHERE id = ANY(%s)"


def make(variant: str) -> Contender:
    """There is one variant."""
    return OnPostgresql()


class OnPostgresql(BareQueue):
    """A connection for each thread, its statements prepared by psycopg; outcomes in a pipeline."""

    def __init__(self) -> None:
        super().__init__()
        self._server = PostgresqlDatabase()
        self._callers = psycopg.connect(self._server.url, autocommit=True)
        self._workers = psycopg.connect(self._server.url, autocommit=True)
        self._callers.execute(_TABLES)

    def dumps(self, value: Any) -> str:
        return json.dumps(value)

    def loads(self, text: str) -> Any:
        return json.loads(text)

    def insert(self, message: dict[str, Any]) -> int:
        inserted = self._callers.execute(_PUBLISH, message).fetchone()
        assert inserted is not None
        row: int = inserted[0]
        return row

    def begin(self, row: int) -> None:
        self._workers.execute(_BEGIN, (row,))

    def settle(self, outcomes: list[Outcome]) -> None:
        with self._workers.pipeline(), self._workers.transaction(), self._workers.cursor() as cursor:
            cursor.executemany(_RUN, [(each.task_id, each.began_at, each.ended_at) for each in outcomes])
            cursor.executemany(_RESULT, [(each.task_id, each.result, each.ended_at) for each in outcomes])
            cursor.execute(_REMOVE, ([each.row for each in outcomes],))

    def pids(self) -> list[int]:
        return self._server.pids()

    def stop(self) -> None:
        super().stop()
        self._callers.close()
        self._workers.close()
        self._server.drop()
