"""Which database an app uses, and what it says about servers that it does not use."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery
from celerylite.app import _database
from celerylite.exceptions import ImproperlyConfigured
from compat_tests.ours.runtime_fixtures import DEADLINE_S, StartProgram, rows

Make = Callable[..., Celery]


@pytest.fixture
def plain_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Make apps in an empty working directory, with nothing said in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("CELERY"):
            monkeypatch.delenv(name)
    with ExitStack() as stack:

        def make(**arguments: Any) -> Celery:
            app = Celery("tests", **arguments)
            stack.callback(app.close)
            return app

        yield make


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A server that nobody should contact."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


def address(server: socket.socket) -> str:
    return f"user:secret@127.0.0.1:{server.getsockname()[1]}"


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if getattr(record, "action", "") == "ignored-urls"
    ]


def run_one(app: Celery) -> None:
    @app.task(name="add")
    def add(a: int, b: int) -> int:
        return a + b

    assert add.delay(1, 2).get(timeout=DEADLINE_S) == 3


# -- the order in which it is looked for ---------------------------------------------------------------


def test_without_a_word_it_is_a_file_in_the_working_directory(
    plain_app: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    run_one(plain_app())
    assert (tmp_path / "celerylite.sqlite3").exists()
    said = [record for record in caplog.records if getattr(record, "action", "") == "database"]
    assert [record.levelname for record in said] == ["INFO"]
    assert said[0].getMessage().startswith("celerylite keeps its queue and results in sqlite:///")
    assert warnings_of(caplog) == []


def test_the_environment_names_another(
    plain_app: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERYLITE_DATABASE", f"sqlite:///{tmp_path}/other.sqlite3")
    run_one(plain_app())
    assert (tmp_path / "other.sqlite3").exists()
    assert not (tmp_path / "celerylite.sqlite3").exists()


def test_the_configuration_wins_over_the_environment(
    plain_app: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CELERYLITE_DATABASE", f"sqlite:///{tmp_path}/other.sqlite3")
    run_one(plain_app(backend=f"db+sqlite:///{tmp_path}/mine.sqlite3"))
    assert (tmp_path / "mine.sqlite3").exists()
    assert not (tmp_path / "other.sqlite3").exists()


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({"result_backend": "db+sqlite:///a.db"}, "sqlite:///a.db"),
        ({"result_backend": "db+sqlite:///a.db", "database_url": "sqlite:///b.db"}, "sqlite:///a.db"),
        ({"database_url": "sqlite:///b.db"}, "sqlite:///b.db"),
        ({"result_backend": "database", "database_url": "sqlite:///b.db"}, "sqlite:///b.db"),
        ({"result_backend": "redis://", "database_url": "sqlite:///b.db"}, "sqlite:///b.db"),
        ({"broker_url": "memory://", "result_backend": "db+sqlite:///a.db"}, "sqlite:///a.db"),
        ({"broker_url": "memory://", "result_backend": "cache+memory://"}, "sqlite://"),
        ({"broker_url": "amqp://"}, "sqlite:///celerylite.sqlite3"),
        ({}, "sqlite:///celerylite.sqlite3"),
    ],
)
def test_settings_are_asked_in_this_order(plain_app: Make, settings: dict[str, Any], url: str) -> None:
    app = plain_app()
    app.conf.update(settings)
    assert _database.choose(app.conf, {}).url == url


def test_an_app_for_tests_keeps_everything_in_memory(plain_app: Make, tmp_path: Path) -> None:
    app = plain_app(broker="memory://", backend="cache+memory://")
    app.start_runtime()
    run_one(app)
    assert list(tmp_path.iterdir()) == []


# -- servers that are not used ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broker", "backend", "named"),
    [
        ("redis://{}/0", None, "broker_url=redis://... not used"),
        ("amqp://{}//", "rpc://", "broker_url=amqp://... and result_backend=rpc://... not used"),
        ("redis://{}/0", "redis://{}/1", "broker_url=redis://... and result_backend=redis://... not used"),
        ("sentinel://{}", "mongodb://{}/db", "sentinel://... and result_backend=mongodb://... not used"),
        (None, "cache+memcached://{}/", "result_backend=cache+memcached://... not used"),
    ],
)
def test_a_server_that_is_named_is_not_contacted_and_said_once(
    plain_app: Make,
    server: socket.socket,
    caplog: pytest.LogCaptureFixture,
    broker: str | None,
    backend: str | None,
    named: str,
) -> None:
    where = address(server)
    app = plain_app(broker=broker and broker.format(where), backend=backend and backend.format(where))
    run_one(app)
    app.close()
    app.tasks["add"].delay(1, 2).get(timeout=DEADLINE_S)
    (warning,) = warnings_of(caplog)
    assert named in warning
    assert "celerylite contacts no broker and keeps queue and results in sqlite:///" in warning
    assert "set celerylite_warn_ignored=False to silence this" in warning
    assert "secret" not in caplog.text
    with pytest.raises(BlockingIOError):
        server.accept()


def test_the_warning_can_be_silenced(
    plain_app: Make, server: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    app = plain_app(broker=f"redis://{address(server)}/0", backend=f"redis://{address(server)}/0")
    app.conf.celerylite_warn_ignored = False
    run_one(app)
    assert warnings_of(caplog) == []


def test_the_warning_is_seen_by_a_program_that_configures_no_logging(start_program: StartProgram) -> None:
    program = start_program("""
app.conf.broker_url = "redis://localhost:1/0"
@app.task
def work():
    return 1
say(work.delay().get(timeout=10))
""")
    assert program.end() == 0
    assert program.errors.count("not used: celerylite contacts no broker") == 1


def test_a_password_of_the_database_is_not_shown(plain_app: Make, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        plain_app(backend="db+oracle://user:secret@host/name").send_task("add")
    assert "secret" not in str(raised.value) + caplog.text


def test_two_programs_in_one_directory_share_the_file(start_program: StartProgram, tmp_path: Path) -> None:
    code = """
app.conf.celerylite_runtime = "off"
@app.task(name="work")
def work():
    return 1
say(work.delay().id)
"""
    assert {start_program(code, name=name).end() for name in ("one", "two")} == {0}
    assert rows(tmp_path / "tasks.sqlite3", "select count(*) from celerylite_messages") == [(2,)]
