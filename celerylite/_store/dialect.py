"""What differs between databases, as one class per database behind this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

if TYPE_CHECKING:
    from celerylite._store.engine import Transaction

__all__ = ("Dialect",)


class Dialect:
    """How one database begins, locks, upserts and tells its clock."""

    name = ""
    #: Begins a transaction that may write.
    begin = "BEGIN"
    #: Whether the database itself lets one connection write at a time.
    single_writer = False
    #: Whether the row count of an upsert tells that an existing row was left alone, and values are read
    #: exactly as they were written.
    tells_what_is_there = True
    #: Whether a connection can be lost while a COMMIT is under way, so that nobody knows what became of it.
    may_lose_answers = True
    #: Whether other processes are told by the database (LISTEN/NOTIFY) that something changed.
    notifies = False
    channel = "celerylite"
    #: Whether INSERT tells the new row's id by RETURNING.
    insert_returns_id = False

    def url(self, url: sa.URL) -> sa.URL:
        """The URL with the driver that we speak to. Raises ImproperlyConfigured."""
        return url

    def in_memory(self, url: sa.URL) -> bool:
        """Whether the database lives and dies with this process."""
        return False

    def file(self, url: sa.URL) -> str | None:
        """The path of the file that is the database, if it is one."""
        return None

    def engine_options(self, url: sa.URL) -> dict[str, Any]:
        return {}

    def on_connect(self, connection: Any, durability: str, patience_s: float) -> None:
        """Prepare a fresh DBAPI connection."""

    def is_transient(self, error: BaseException) -> bool:
        """Whether the same transaction may succeed when it is simply run again (lock, deadlock)."""
        return False

    def is_disconnect(self, error: BaseException) -> bool:
        """Whether the connection is of no more use (as one that cannot be written), or could not be made."""
        return False

    def too_large(self, cursor: Any, error: BaseException, sql: str, parameters: Any) -> Exception | None:
        """What to raise instead of `error` when the statement failed because it is longer than allowed."""
        return None

    def lock_schema(self, connection: sa.Connection) -> None:
        """Keep other processes from creating tables, until `unlock_schema`."""

    def unlock_schema(self, connection: sa.Connection, failed: bool) -> None:
        """End what `lock_schema` began."""

    def now(self) -> sa.ColumnElement[float]:
        """The database's clock in epoch seconds."""
        raise NotImplementedError

    def upsert(
        self,
        table: sa.Table,
        keys: Sequence[str],
        values: Sequence[str],
        unless: sa.ColumnElement[bool] | None = None,
    ) -> Any:
        """INSERT binds named as the columns; on a duplicate key set `values`, `unless` that row is so."""
        raise NotImplementedError

    def insert_ignore(self, table: sa.Table, columns: Sequence[str]) -> Any:
        """INSERT that does nothing when the key exists; its row count tells."""
        raise NotImplementedError

    def skip_locked(self, select: sa.Select[Any]) -> sa.Select[Any]:
        """Lock the selected rows, passing over those that others have locked."""
        return select.with_for_update(skip_locked=True)

    #: Seconds for which a transaction between `hurry` and `calm_down` waits for a lock.
    hurry_s = 0.0
    #: Whether INSERT locks the row that is there already, so that it is better to look first.
    insert_locks = False

    def hurry(self, tx: Transaction) -> None:
        """Have the transaction wait only for a moment for locks of others, until `calm_down`."""

    def calm_down(self, tx: Transaction) -> None:
        """Have the transaction wait for locks as it did before `hurry`."""

    def is_locked(self, error: BaseException) -> bool:
        """Whether a statement failed because another transaction has locked what it needs."""
        return False

    def last_id(self, cursor: Any) -> int:
        """The id of the one row just inserted."""
        return int(cursor.lastrowid)

    def notify(self, tx: Transaction, payloads: Mapping[str, str]) -> None:
        """Tell listeners of other processes, at this transaction's commit."""
