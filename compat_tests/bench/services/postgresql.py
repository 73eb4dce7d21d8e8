"""A PostgreSQL database that only one contender uses; its server runs already."""

from __future__ import annotations

import os
import time
import uuid
from urllib.parse import urlsplit, urlunsplit

import psycopg

__all__ = ("PostgresqlDatabase",)

_SERVER = os.environ.get("CELERYLITE_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test")


class PostgresqlDatabase:
    """Made when constructed, dropped by `drop`."""

    def __init__(self) -> None:
        began = time.monotonic()
        self.name = f"bench_{uuid.uuid4().hex[:12]}"
        #: The form without a driver, as procrastinate wants it.
        self.url = urlunsplit(urlsplit(_SERVER)._replace(path=f"/{self.name}"))
        self._control = psycopg.connect(_SERVER, autocommit=True)
        self._control.execute(f'CREATE DATABASE "{self.name}"'.encode())
        #: Seconds that it took to be there.
        self.took_s = time.monotonic() - began

    def pids(self) -> list[int]:
        """The server's processes that serve this database. It is to be on this machine."""
        rows = self._control.execute("SELECT pid FROM pg_stat_activity WHERE datname = %s", (self.name,))
        return [pid for (pid,) in rows]

    def drop(self) -> None:
        """Away with it and with who is still connected."""
        self._control.execute(f'DROP DATABASE "{self.name}" WITH (FORCE)'.encode())
        self._control.close()
