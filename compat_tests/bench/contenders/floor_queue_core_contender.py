"""The same floor with the libraries that celerylite stands on: SQLAlchemy Core, and kombu's serialiser."""

from __future__ import annotations

import threading
from typing import Any

import sqlalchemy as sa
from kombu.serialization import dumps, loads

from compat_tests.bench.contenders import Contender
from compat_tests.bench.contenders.floor_queue_contender import BareQueue, Outcome

__all__ = ("make",)

_METADATA = sa.MetaData()
_MESSAGES = sa.Table(
    "messages",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.Text),
    sa.Column("name", sa.Text),
    sa.Column("queue", sa.Text),
    sa.Column("state", sa.Integer),
    sa.Column("created_at", sa.Float),
    sa.Column("headers", sa.Text),
    sa.Column("properties", sa.Text),
    sa.Column("body", sa.Text),
)
_RESULTS = sa.Table(
    "results",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.Text, unique=True),
    sa.Column("status", sa.Text),
    sa.Column("result", sa.Text),
    sa.Column("done_at", sa.Float),
)
_RUNS = sa.Table(
    "runs",
    _METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("task_id", sa.Text),
    sa.Column("status", sa.Text),
    sa.Column("began_at", sa.Float),
    sa.Column("ended_at", sa.Float),
)
_PUBLISH = sa.insert(_MESSAGES)
_BEGIN = sa.update(_MESSAGES).where(_MESSAGES.c.id == sa.bindparam("row")).values(state=2)
_REMOVE = sa.delete(_MESSAGES).where(_MESSAGES.c.id == sa.bindparam("row"))
_RESULT = sa.insert(_RESULTS)
_RUN = sa.insert(_RUNS)


def make(variant: str) -> Contender:
    """There is one variant."""
    return OnCore()


class OnCore(BareQueue):
    """As SQLAlchemy's documentation has it: statements made once, compiled once, one connection."""

    def __init__(self) -> None:
        super().__init__()
        engine = sa.create_engine("sqlite:///floor.sqlite3", connect_args={"check_same_thread": False})
        sa.event.listen(engine, "connect", _set_up)
        sa.event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
        _METADATA.create_all(engine)
        self._connection = engine.connect()
        self._writes = threading.Lock()

    def dumps(self, value: Any) -> str:
        text: str = dumps(value, serializer="json")[2]
        return text

    def loads(self, text: str) -> Any:
        return loads(text, "application/json", "utf-8")

    def insert(self, message: dict[str, Any]) -> int:
        with self._writes, self._connection.begin():
            key: Any = self._connection.execute(_PUBLISH, message).inserted_primary_key
        row: int = key[0]
        return row

    def begin(self, row: int) -> None:
        with self._writes, self._connection.begin():
            self._connection.execute(_BEGIN, {"row": row})

    def settle(self, outcomes: list[Outcome]) -> None:
        runs = [
            {
                "task_id": each.task_id,
                "status": "SUCCESS",
                "began_at": each.began_at,
                "ended_at": each.ended_at,
            }
            for each in outcomes
        ]
        results = [
            {
                "task_id": each.task_id,
                "status": "SUCCESS",
                "result": each.result,
                "done_at": each.ended_at,
            }
            for each in outcomes
        ]
        with self._writes, self._connection.begin():
            self._connection.execute(_RUN, runs)
            self._connection.execute(_RESULT, results)
            self._connection.execute(_REMOVE, [{"row": each.row} for each in outcomes])

    def stop(self) -> None:
        super().stop()
        self._connection.close()
        self._connection.engine.dispose()


def _set_up(connection: Any, _: Any) -> None:
    # The driver begins no transactions of its own.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
