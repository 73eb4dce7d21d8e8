"""MySQL 8 and MariaDB 10.6 (and later) by PyMySQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pymysql
import sqlalchemy as sa
from sqlalchemy.dialects.mysql import insert

from celerylite._store.dialect import Dialect

__all__ = ("MySQL",)

#: Lock wait timeout, deadlock, "record has changed since last read".
_TRANSIENT = (1205, 1213, 1020)

#: Lock wait timeout (of MariaDB also with NOWAIT), NOWAIT.
_LOCKED = (1205, 3572)

#: Too many connections, shutdown, killed, timed out, no such host, gone away, lost during a query...
_LOST = {(code,) for code in (1040, 1053, 1927, 2002, 2003, 2006, 2013, 2014, 2045, 2055, 4031)}

#: An option of the server forbids it, transaction read only, InnoDB read only: after a failover this is the
#: server that only follows, and a new connection may lead to the one that can be written.
_READ_ONLY = (1290, 1792, 1836)


class MySQL(Dialect):
    """For several processes or hosts; learns of their changes by looking."""

    name = "mysql"
    begin = "START TRANSACTION"
    insert_locks = True
    # SQLAlchemy asks for the rows "found", and a row that stays is found. Nor are microseconds kept.
    tells_what_is_there = False

    def __init__(self) -> None:
        #: Bytes in the longest statement that the server takes; None until it was asked.
        self._longest: int | None = None

    def url(self, url: sa.URL) -> sa.URL:
        base = "mariadb" if url.get_backend_name() == "mariadb" else "mysql"
        return url.set(drivername=f"{base}+pymysql").update_query_dict({"charset": "utf8mb4"})

    def on_connect(self, connection: Any, durability: str, patience_s: float) -> None:
        cursor = connection.cursor()
        # With the default, REPEATABLE READ, claims lock gaps and stop publishers.
        cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {max(1, int(patience_s))}")
        # As in PostgreSQL and SQLite, a value that does not fit is an error, not cut short in silence.
        cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_ALL_TABLES')")
        if self._longest is None:
            cursor.execute("SELECT @@max_allowed_packet")
            self._longest = int(cursor.fetchone()[0])
        cursor.close()

    def is_transient(self, error: BaseException) -> bool:
        return bool(error.args) and error.args[0] in _TRANSIENT

    def is_locked(self, error: BaseException) -> bool:
        return bool(error.args) and error.args[0] in _LOCKED

    def is_disconnect(self, error: BaseException) -> bool:
        if isinstance(error, pymysql.err.InterfaceError):
            return True
        if not isinstance(error, pymysql.err.OperationalError):
            return False
        return error.args[:1] in _LOST or _is_read_only(*error.args)

    def too_large(self, cursor: Any, error: BaseException, sql: str, parameters: Any) -> Exception | None:
        # The server hangs up on such a statement: taken for an outage, it would be tried for ever.
        if not self.is_disconnect(error) or self._longest is None:
            return None
        length = len(cursor.mogrify(sql, parameters))
        if length < self._longest:
            return None
        refused: Exception = pymysql.err.DataError(
            f"expected at most {self._longest} bytes in a statement (max_allowed_packet), got {length}; "
            "raise that setting of the server, or keep large values elsewhere"
        )
        return refused

    def lock_schema(self, connection: sa.Connection) -> None:
        # Every DDL statement commits here, so the lock is one that is no part of a transaction.
        connection.exec_driver_sql("SELECT GET_LOCK('celerylite_schema', 60)")

    def unlock_schema(self, connection: sa.Connection, failed: bool) -> None:
        connection.exec_driver_sql("SELECT RELEASE_LOCK('celerylite_schema')")

    def now(self) -> sa.ColumnElement[float]:
        # UNIX_TIMESTAMP reads its argument in the session's zone, as NOW writes it.
        return sa.literal_column("(UNIX_TIMESTAMP(NOW(6)) + 0e0)", sa.Double())

    def upsert(
        self,
        table: sa.Table,
        keys: Sequence[str],
        values: Sequence[str],
        unless: sa.ColumnElement[bool] | None = None,
    ) -> Any:
        statement = insert(table).values({name: sa.bindparam(name) for name in (*keys, *values)}).inline()
        if unless is None:
            return statement.on_duplicate_key_update([(name, statement.inserted[name]) for name in values])
        # Assignments run from left to right and see those before them: what `unless` reads goes last.
        read = [name for name in values if any(name == column.name for column in _columns(unless))]
        order = [name for name in values if name not in read] + read
        return statement.on_duplicate_key_update(
            [(name, sa.func.if_(unless, table.c[name], statement.inserted[name])) for name in order]
        )

    def insert_ignore(self, table: sa.Table, columns: Sequence[str]) -> Any:
        # Not ON DUPLICATE KEY UPDATE: SQLAlchemy asks for "found" row counts, and those do not tell an
        # inserted row from one that was there.
        values: dict[str, Any] = {name: sa.bindparam(name) for name in columns}
        return sa.insert(table).prefix_with("IGNORE").values(values).inline()


def _is_read_only(code: int = 0, text: object = "", *_: object) -> bool:
    # 1290 is said of other options too.
    return code in _READ_ONLY and (code != 1290 or "read-only" in str(text))


def _columns(condition: sa.ColumnElement[bool]) -> list[sa.Column[Any]]:
    return [element for element in sa.sql.visitors.iterate(condition) if isinstance(element, sa.Column)]
