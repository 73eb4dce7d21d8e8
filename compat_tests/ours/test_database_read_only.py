"""A server that takes no writes any more, as after a failover: an outage, and other connections end it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pymysql
import pytest
import sqlalchemy as sa
from kombu.exceptions import OperationalError

from celerylite import Celery
from celerylite._store.mysql import MySQL
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate
from compat_tests.ours.store_fixtures import make_url
from compat_tests.ours.trouble_fixtures import Told, told

__all__ = ("told",)


class Server:
    """A database whose new connections can be made read only by the server; those there are get closed."""

    def __init__(self, url: sa.URL) -> None:
        driver = "postgresql+psycopg" if url.get_backend_name() == "postgresql" else "mysql+pymysql"
        self.url = url
        self.engine = sa.create_engine(
            url.set(drivername=driver), isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
        )
        self.options: dict[str, Any] = {}

    def run(self, sql: str) -> list[Any]:
        with self.engine.connect() as connection:
            result = connection.exec_driver_sql(sql)
            return list(result) if result.returns_rows else []

    def become(self, read_only: bool) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Remove what was made for the test."""


class PostgreSQL(Server):
    """By a role of the test's own, for which transactions are read only."""

    def __init__(self, url: sa.URL) -> None:
        super().__init__(url)
        self.role = f"role_{uuid.uuid4().hex[:12]}"
        self.run(f"CREATE ROLE {self.role} SUPERUSER LOGIN PASSWORD 'own'")
        self.url = url.set(username=self.role, password="own")

    def become(self, read_only: bool) -> None:
        self.run(f"ALTER ROLE {self.role} SET default_transaction_read_only = {'on' if read_only else 'off'}")
        if read_only:
            self._hang_up()

    def _hang_up(self) -> None:
        self.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{self.role}'")

    def close(self) -> None:
        self._hang_up()
        self.run(f"REASSIGN OWNED BY {self.role} TO CURRENT_USER")
        self.run(f"DROP ROLE {self.role}")


class MariaDB(Server):
    """By connections for which the server was told that transactions are read only.

    The option `read_only` of the server would be everybody's; what it answers then is tested apart.
    """

    def __init__(self, url: sa.URL) -> None:
        super().__init__(url)
        self._read_only = False
        self._connections: list[Any] = []
        self.options = {"database_engine_callback": self._watch}

    def _watch(self, engine: sa.Engine) -> None:
        @sa.event.listens_for(engine, "connect")
        def connected(connection: Any, _: Any) -> None:
            self._connections.append(connection.thread_id())
            if self._read_only:
                connection.cursor().execute("SET SESSION TRANSACTION READ ONLY")

    def become(self, read_only: bool) -> None:
        self._read_only = read_only
        if read_only:
            here = {row[0] for row in self.run("SHOW PROCESSLIST")}
            for number in here.intersection(self._connections):
                with suppress(sa.exc.OperationalError):  # It may have ended by itself.
                    self.run(f"KILL {number}")


@pytest.fixture(params=["postgresql", "mysql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    for text in make_url(request.param, tmp_path):
        url = sa.make_url(text)
        server = PostgreSQL(url) if request.param == "postgresql" else MariaDB(url)
        try:
            yield server
        finally:
            server.close()


@pytest.fixture
def app(server: Server) -> Iterator[Celery]:
    app = Celery("read_only")
    app.conf.update(
        result_backend=f"db+{server.url.render_as_string(hide_password=False)}",
        broker_connection_timeout=2.0,
        celerylite_beat="off",
        celerylite_exit_grace=5.0,
        **server.options,
    )
    yield app
    app.close()


def test_a_server_that_became_read_only_is_waited_for_and_told_of_once(
    app: Celery, server: Server, gate: Gate, told: Told
) -> None:
    @app.task
    def wait(number: int) -> int:
        gate.wait()
        return number

    results = [wait.delay(number) for number in range(3)]
    gate.until_arrived(3)
    server.become(read_only=True)
    with pytest.raises(OperationalError, match=r"(?i)read.only"):
        wait.delay(3)
    gate.open()
    told.until("does not answer")
    # Connections that were made meanwhile stay read only: others have to be made.
    server.become(read_only=False)
    assert [result.get(timeout=DEADLINE_S) for result in results] == [0, 1, 2]
    assert wait.delay(4).get(timeout=DEADLINE_S) == 4
    told.until("answers again")
    assert [line.split(",")[0].split(":")[0] for line in told.lines] == [
        "the database does not answer",
        "the database answers again",
    ]
    assert app.store.unfinished() == {}


def test_results_can_be_read_where_nothing_can_be_written(app: Celery, server: Server) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(1, 2)
    assert result.get(timeout=DEADLINE_S) == 3
    app.stop_runtime()
    server.become(read_only=True)
    assert app.AsyncResult(result.id).get(timeout=DEADLINE_S) == 3
    with pytest.raises(OperationalError, match=r"(?i)read.only"):
        add.delay(3, 4)
    server.become(read_only=False)
    assert add.delay(5, 6).get(timeout=DEADLINE_S) == 11


@pytest.mark.parametrize(
    ("code", "text", "is_outage"),
    [
        (1290, "The MariaDB server is running with the --read-only option so it cannot execute this", True),
        (1290, "The MySQL server is running with the --super-read-only option so it cannot execute", True),
        (1290, "The MariaDB server is running with the --secure-file-priv option", False),
        (1792, "Cannot execute statement in a READ ONLY transaction", True),
        (1836, "Running in read-only mode", True),
        (1054, "Unknown column 'read-only' in 'field list'", False),
    ],
)
def test_what_a_server_with_the_option_read_only_answers_is_an_outage(
    code: int, text: str, is_outage: bool
) -> None:
    # Made by hand: the option is the whole server's, and others work on it.
    assert MySQL().is_disconnect(pymysql.err.OperationalError(code, text)) is is_outage
