"""PostgreSQL by psycopg 3: row locks that are skipped, LISTEN/NOTIFY."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from celerylite._store.dialect import Dialect

if TYPE_CHECKING:
    from celerylite._store.engine import Transaction

__all__ = ("PostgreSQL",)

#: Any number will do, as long as all versions of this code use the same.
_SCHEMA_LOCK = 0x63656C65

#: serialization_failure, deadlock_detected, lock_not_available
_TRANSIENT = ("40001", "40P01", "55P03")

#: lock_not_available
_LOCKED = "55P03"

#: read_only_sql_transaction: after a failover this is the server that only follows, and a new connection
#: may lead to the one that can be written.
_READ_ONLY = "25006"


class PostgreSQL(Dialect):
    """For several processes or hosts."""

    name = "postgresql"
    notifies = True
    insert_returns_id = True
    hurry_s = 0.02

    def __init__(self) -> None:
        self._lock_timeout_ms = 0

    def url(self, url: sa.URL) -> sa.URL:
        return url.set(drivername="postgresql+psycopg")

    def on_connect(self, connection: Any, durability: str, patience_s: float) -> None:
        # A queue that was empty when a statement was planned may hold a million rows when it runs, and
        # the driver keeps plans. Each of our statements has its index, so plans without one are put
        # out of the question (measured with 200,000 rows: 172 ms for a claim without this, 1 ms with it).
        for name in ("enable_seqscan", "enable_bitmapscan"):
            connection.execute(f"SET {name} = off")
        if durability == "memory":
            connection.execute("SET synchronous_commit = off")
        self._lock_timeout_ms = int(patience_s * 1000)
        connection.execute(f"SET lock_timeout = {self._lock_timeout_ms}")

    def hurry(self, tx: Transaction) -> None:
        # There is no NOWAIT for an INSERT that meets the uncommitted one of another.
        tx.execute_text(f"SET LOCAL lock_timeout = {int(self.hurry_s * 1000)}")

    def calm_down(self, tx: Transaction) -> None:
        tx.execute_text(f"SET LOCAL lock_timeout = {self._lock_timeout_ms}")

    def is_locked(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) == _LOCKED

    def is_transient(self, error: BaseException) -> bool:
        return getattr(error, "sqlstate", None) in _TRANSIENT

    def is_disconnect(self, error: BaseException) -> bool:
        state = getattr(error, "sqlstate", None)
        if state == _READ_ONLY:
            return True
        if not isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
            return False
        # Without a state it is the socket that failed. Classes: connection, too many, shutdown.
        return state is None or state[:2] in ("08", "53", "57")

    def lock_schema(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_SCHEMA_LOCK})")

    def unlock_schema(self, connection: sa.Connection, failed: bool) -> None:
        connection.exec_driver_sql("ROLLBACK" if failed else "COMMIT")

    def now(self) -> sa.ColumnElement[float]:
        # clock_timestamp() moves on inside a transaction; now() would be the moment of BEGIN.
        return sa.literal_column("extract(epoch from clock_timestamp())::double precision", sa.Double())

    def upsert(
        self,
        table: sa.Table,
        keys: Sequence[str],
        values: Sequence[str],
        unless: sa.ColumnElement[bool] | None = None,
    ) -> Any:
        statement = insert(table).values({name: sa.bindparam(name) for name in (*keys, *values)}).inline()
        return statement.on_conflict_do_update(
            index_elements=list(keys),
            set_={name: statement.excluded[name] for name in values},
            where=None if unless is None else sa.not_(sa.func.coalesce(unless, sa.false())),
        )

    def insert_ignore(self, table: sa.Table, columns: Sequence[str]) -> Any:
        values: dict[str, Any] = {name: sa.bindparam(name) for name in columns}
        return insert(table).values(values).inline().on_conflict_do_nothing()

    def last_id(self, cursor: Any) -> int:
        return int(cursor.fetchone()[0])

    def notify(self, tx: Transaction, payloads: Mapping[str, str]) -> None:
        for payload in payloads.values():
            tx.execute_text("SELECT pg_notify(%s, %s)", (self.channel, payload))
