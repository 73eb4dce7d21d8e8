"""The floor under durable publishing on PostgreSQL: one row of the size of a message, with psycopg."""

from __future__ import annotations

import psycopg

from compat_tests.bench.contenders import Contender
from compat_tests.bench.contenders.floor_commit_contender import ROW
from compat_tests.bench.services.postgresql import PostgresqlDatabase

__all__ = ("make",)

_TABLE = (
    "CREATE TABLE messages (id BIGSERIAL PRIMARY KEY, task_id TEXT, name TEXT, queue TEXT, turn INTEGER,"
    " state INTEGER, created_at DOUBLE PRECISION, headers TEXT, properties TEXT, body TEXT)"
)
_INSERT = (
    "INSERT INTO messages (task_id, name, queue, turn, state, created_at, headers, properties, body)"
    " VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) RETURNING id"
)


def make(variant: str) -> Contender:
    """There is one variant."""
    return BareCommit()


class BareCommit(Contender):
    """One connection that commits each statement by itself; no index but the primary key."""

    def __init__(self) -> None:
        self._server = PostgresqlDatabase()
        self._connection = psycopg.connect(self._server.url, autocommit=True)
        self._connection.execute(_TABLE)

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._connection.execute(_INSERT, ROW).fetchone()

    def stop(self) -> None:
        self._connection.close()
        self._server.drop()
