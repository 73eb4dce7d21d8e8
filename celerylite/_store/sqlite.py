"""SQLite: one file, one writer, WAL."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.pool import StaticPool

from celerylite._store.dialect import Dialect
from celerylite.exceptions import ImproperlyConfigured

__all__ = ("SQLite",)

#: Pages in the write-ahead log (4 KB each) before they go into the file. That waits for the disk, some ten
#: times as long as a call takes; with SQLite's own 1,000 it hits one call in a hundred.
_CHECKPOINT_PAGES = 4000


class SQLite(Dialect):
    """The default: no server, survives `kill -9`, and with durability 'full' a power cut."""

    name = "sqlite"
    # Taking the write lock at once: a transaction that reads first and then wants to write fails
    # with SQLITE_BUSY that no busy_timeout waits for.
    begin = "BEGIN IMMEDIATE"
    single_writer = True
    may_lose_answers = False

    def url(self, url: sa.URL) -> sa.URL:
        url = url.set(drivername="sqlite")
        if not self.in_memory(url):
            _check_directory(url)
        return url

    def in_memory(self, url: sa.URL) -> bool:
        name = url.database
        return not name or name == ":memory:" or (name.startswith("file:") and "mode=memory" in str(url))

    def file(self, url: sa.URL) -> str | None:
        # An SQLite URI may name anything; on Windows an open file cannot be deleted.
        name = url.database or ""
        is_path = not self.in_memory(url) and not name.startswith("file:") and os.name == "posix"
        return str(Path(name).absolute()) if is_path else None

    def engine_options(self, url: sa.URL) -> dict[str, Any]:
        # check_same_thread: the writer's connection is used by whichever thread leads.
        options: dict[str, Any] = {"connect_args": {"check_same_thread": False, "cached_statements": 256}}
        if self.in_memory(url):
            options["poolclass"] = StaticPool
        return options

    def on_connect(self, connection: Any, durability: str, patience_s: float) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {int(patience_s * 1000)}")
        if cursor.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        cursor.execute(f"PRAGMA synchronous = {'FULL' if durability == 'full' else 'NORMAL'}")
        cursor.close()

    def is_transient(self, error: BaseException) -> bool:
        return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

    def is_disconnect(self, error: BaseException) -> bool:
        # Opened while the file could not be written, a connection stays so for good.
        return _code(error) == sqlite3.SQLITE_READONLY

    def lock_schema(self, connection: sa.Connection) -> None:
        connection.exec_driver_sql(self.begin)

    def unlock_schema(self, connection: sa.Connection, failed: bool) -> None:
        connection.exec_driver_sql("ROLLBACK" if failed else "COMMIT")

    def now(self) -> sa.ColumnElement[float]:
        # Of the Julian day, 2440587.5 is 1970; a double keeps it to some 50 microseconds.
        return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Double())

    def upsert(
        self,
        table: sa.Table,
        keys: Sequence[str],
        values: Sequence[str],
        unless: sa.ColumnElement[bool] | None = None,
    ) -> Any:
        statement = insert(table).values({name: sa.bindparam(name) for name in (*keys, *values)})
        return statement.on_conflict_do_update(
            index_elements=list(keys),
            set_={name: statement.excluded[name] for name in values},
            where=None if unless is None else sa.not_(sa.func.coalesce(unless, sa.false())),
        )

    def insert_ignore(self, table: sa.Table, columns: Sequence[str]) -> Any:
        return insert(table).values({name: sa.bindparam(name) for name in columns}).on_conflict_do_nothing()

    def skip_locked(self, select: sa.Select[Any]) -> sa.Select[Any]:
        return select  # the whole database is locked


def _code(error: BaseException) -> int:
    if not isinstance(error, sqlite3.OperationalError):
        return 0
    # The low byte is the primary code; BUSY_SNAPSHOT and others are variants of it.
    return (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _check_directory(url: sa.URL) -> None:
    name = url.database or ""
    if name.startswith("file:"):
        return  # an SQLite URI: SQLite itself says what is wrong
    path = Path(name).absolute()
    if not path.parent.is_dir():
        raise ImproperlyConfigured(
            f"database {str(path)!r}: expected an existing directory, got {str(path.parent)!r}, which "
            f"does not exist; create it, or name another file with result_backend or CELERYLITE_DATABASE"
        )
    # WAL needs files beside the database, so a writable file alone will not do.
    if not os.access(path.parent, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ImproperlyConfigured(
            f"database {str(path)!r}: expected a file in a directory that can be written, got no permission "
            f"for {str(path.parent)!r}; change its owner, or name another file with result_backend or "
            f"CELERYLITE_DATABASE"
        )
