"""The floor under durable publishing through SQLAlchemy Core: one compiled insert, one commit."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from compat_tests.bench.contenders import Contender
from compat_tests.bench.contenders.floor_commit_contender import ROW

__all__ = ("make",)

_COLUMNS = ("task_id", "name", "queue", "turn", "state", "created_at", "headers", "properties", "body")
_TYPES = (sa.Text, sa.Text, sa.Text, sa.Integer, sa.Integer, sa.Double, sa.Text, sa.Text, sa.Text)


def make(variant: str) -> Contender:
    """There is one variant."""
    return CoreCommit()


class CoreCommit(Contender):
    """One connection kept, WAL and `synchronous=NORMAL`."""

    def __init__(self) -> None:
        columns: list[sa.Column[Any]] = [
            sa.Column(name, kind) for name, kind in zip(_COLUMNS, _TYPES, strict=True)
        ]
        key = sa.Column("id", sa.Integer, primary_key=True)
        self._table = sa.Table("messages", sa.MetaData(), key, *columns)
        self._connection = sa.create_engine("sqlite:///floor.sqlite3").connect()
        self._connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        self._connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
        self._table.create(self._connection)
        self._connection.commit()

    def publish(self, count: int) -> None:
        statement, row = self._table.insert(), dict(zip(_COLUMNS, ROW, strict=True))
        for _ in range(count):
            self._connection.execute(statement, row)
            self._connection.commit()

    def stop(self) -> None:
        self._connection.close()
