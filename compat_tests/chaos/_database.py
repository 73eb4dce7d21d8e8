"""The database of one run: made for it, troubled in it, dropped after it."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

__all__ = ("ChaosDatabase", "open_database")


class ChaosDatabase:
    """A database that nobody else uses. This one is a file of SQLite."""

    def __init__(self, url: sa.URL, directory: Path) -> None:
        if url.database:
            raise SystemExit(f"--database: expected 'sqlite://' (the run makes its own file), got {url}")
        self.url = f"sqlite:///{directory / 'chaos.sqlite3'}"

    def kill_connections(self, choose: random.Random) -> int:
        """Cut some of the connections to it; how many."""
        return 0

    def drop(self) -> None:
        """Remove it with all that is in it."""

    def left(self) -> dict[str, int]:
        """The messages that are still there, by task id, with their state."""
        with sa.create_engine(self.url, poolclass=sa.pool.NullPool).connect() as connection:
            rows = connection.exec_driver_sql("SELECT task_id, state FROM celerylite_messages").all()
        return {str(task_id): int(state) for task_id, state in rows}


class _ServerDatabase(ChaosDatabase):
    """A database on a server; the account of `url` must be allowed to create it."""

    driver = ""
    clients = ""
    cut = ""
    forced = ""

    def __init__(self, url: sa.URL, directory: Path) -> None:
        self.name = f"chaos_{os.getpid()}"
        self._server = sa.create_engine(
            url.set(drivername=self.driver), isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
        )
        self._run(f"CREATE DATABASE {self.name}")
        self.url = url.set(drivername=self.driver, database=self.name).render_as_string(hide_password=False)

    def _run(self, statement: str, *values: Any) -> list[Any]:
        with self._server.connect() as connection:
            result = connection.exec_driver_sql(statement, values or None)
            return list(result.all()) if result.returns_rows else []

    def kill_connections(self, choose: random.Random) -> int:
        # The server may be restarting just now; then there is nothing left to cut.
        with suppress(sa.exc.DBAPIError):
            clients = [row[0] for row in self._run(self.clients, self.name)]
            victims = choose.sample(clients, k=(len(clients) + 1) // 2)
            for victim in victims:
                with suppress(sa.exc.DBAPIError):
                    self._run(f"{self.cut.format(int(victim))}")
            return len(victims)
        return 0

    def drop(self) -> None:
        self._run(f"DROP DATABASE {self.name}{self.forced}")
        self._server.dispose()


class _PostgreSQL(_ServerDatabase):
    driver = "postgresql+psycopg"
    clients = "SELECT pid FROM pg_stat_activity WHERE datname = %s"
    cut = "SELECT pg_terminate_backend({})"
    forced = " WITH (FORCE)"


class _MySQL(_ServerDatabase):
    driver = "mysql+pymysql"
    clients = "SELECT id FROM information_schema.processlist WHERE db = %s"
    cut = "KILL {}"


def open_database(url: str, directory: Path) -> ChaosDatabase:
    """Make the database for a run on the server (or, for SQLite, in the directory) that `url` names."""
    parsed = sa.make_url(url.removeprefix("db+"))
    if parsed.host not in (None, "", "localhost", "127.0.0.1", "::1"):
        raise SystemExit(f"--database: expected a server on this machine, got {parsed.host!r}")
    kinds = {"sqlite": ChaosDatabase, "postgresql": _PostgreSQL, "mysql": _MySQL, "mariadb": _MySQL}
    kind = kinds.get(parsed.get_backend_name())
    if kind is None:
        raise SystemExit(f"--database: expected one of {', '.join(kinds)}, got {parsed.get_backend_name()!r}")
    return kind(parsed, directory)
