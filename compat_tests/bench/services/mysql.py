"""A MariaDB or MySQL database that only one contender uses; its server runs already."""

from __future__ import annotations

import os
import time
import uuid
from urllib.parse import urlsplit, urlunsplit

import pymysql

__all__ = ("MysqlDatabase",)

_SERVER = os.environ.get("CELERYLITE_TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:3306/test")


class MysqlDatabase:
    """Made when constructed, dropped by `drop`. Its server is one process for all: not counted."""

    def __init__(self) -> None:
        began = time.monotonic()
        self.name = f"bench_{uuid.uuid4().hex[:12]}"
        parts = urlsplit(_SERVER)
        self.url = urlunsplit(parts._replace(path=f"/{self.name}"))
        self._control = pymysql.connect(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=parts.username or "root",
            password=parts.password or "",
            autocommit=True,
        )
        self._execute(f"CREATE DATABASE {self.name}")
        #: Seconds that it took to be there.
        self.took_s = time.monotonic() - began

    def drop(self) -> None:
        """Away with it."""
        self._execute(f"DROP DATABASE {self.name}")
        self._control.close()

    def _execute(self, statement: str) -> None:
        with self._control.cursor() as cursor:
            cursor.execute(statement)
