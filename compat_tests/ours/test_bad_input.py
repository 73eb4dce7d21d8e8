"""Bad input of every kind: a clear error that names the thing and the remedy, and nothing else is lost."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from kombu import Connection
from kombu.exceptions import ContentDisallowed, EncodeError

from celerylite import Celery, chain, chord, states
from celerylite.exceptions import (
    ChordError,
    ImproperlyConfigured,
    InvalidTaskError,
    NotRegistered,
    SchemaTooNew,
    TaskRevokedError,
)
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, rows, states_of

# -- arguments and options of a call -------------------------------------------------------------------


class Unserialisable:
    """JSON knows no such thing."""


def nothing_was_enqueued(database: Path) -> bool:
    tables = rows(database, "select name from sqlite_master") if database.exists() else []
    return ("celerylite_messages",) not in tables or rows(database, "select * from celerylite_messages") == []


def test_arguments_that_cannot_be_serialised_fail_the_call(file_app: Celery, database: Path) -> None:
    @file_app.task
    def work(value: Any) -> None:
        raise AssertionError("ran")

    with pytest.raises(EncodeError, match="Unserialisable is not JSON serializable"):
        work.delay(Unserialisable())
    with pytest.raises(EncodeError, match="Unserialisable is not JSON serializable"):
        asyncio.run(work.aapply_async((Unserialisable(),)))
    assert nothing_was_enqueued(database)


def test_a_callback_that_cannot_be_serialised_fails_the_call(file_app: Celery, database: Path) -> None:
    @file_app.task
    def work(value: Any = None) -> None:
        raise AssertionError("ran")

    with pytest.raises(EncodeError):
        work.apply_async(link=work.s(Unserialisable()))
    assert nothing_was_enqueued(database)


def test_arguments_that_do_not_fit_fail_the_call(file_app: Celery, database: Path) -> None:
    @file_app.task
    def add(a: int, b: int) -> int:
        return a + b

    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'b'"):
        add.delay(1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"add\(\) got an unexpected keyword argument 'c'"):
        add.apply_async((1, 2), {"c": 3})
    assert nothing_was_enqueued(database)


def test_arguments_that_do_not_fit_fail_the_task_where_it_is_not_typed(file_app: Celery) -> None:
    @file_app.task(typing=False)
    def add(a: int, b: int) -> int:
        return a + b

    result = add.apply_async((1,))
    with pytest.raises(TypeError, match=r"add\(\) missing 1 required positional argument: 'b'"):
        result.get(timeout=DEADLINE_S)


@pytest.mark.parametrize(
    ("args", "kwargs", "complaint"),
    [
        ("text", None, "task args must be a list or tuple"),
        (5, None, "task args must be a list or tuple"),
        ({"a": 1}, None, "task args must be a list or tuple"),
        ((), [1], "task keyword arguments must be a mapping"),
    ],
)
def test_arguments_that_are_no_list_or_mapping_fail_the_call(
    file_app: Celery, database: Path, args: Any, kwargs: Any, complaint: str
) -> None:
    with pytest.raises(TypeError, match=complaint):
        file_app.send_task("anything", args, kwargs)
    assert nothing_was_enqueued(database)


def test_an_eta_that_is_no_date_fails_the_call(file_app: Celery, database: Path) -> None:
    for option in ("eta", "expires"):
        options: dict[str, Any] = {option: "tomorrow"}
        with pytest.raises(
            InvalidTaskError, match=rf"{option}: expected an ISO 8601 date .*, got 'tomorrow'"
        ):
            file_app.send_task("work", (), {}, **options)
    assert nothing_was_enqueued(database)


def test_a_countdown_out_of_range_fails_the_call(file_app: Celery) -> None:
    @file_app.task
    def work() -> None:
        raise AssertionError("ran")

    with pytest.raises(ValueError, match="countdown is out of range: -3000000000"):
        work.apply_async(countdown=-3_000_000_000)
    limited = file_app.task(name="limits", soft_time_limit=2, time_limit=1)(lambda: None)
    with pytest.raises(ValueError, match="soft_time_limit must be less than or equal to time_limit"):
        limited.delay()


def test_a_call_that_has_expired_is_discarded_and_said_so(
    file_app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    @file_app.task
    def work() -> None:
        raise AssertionError("ran")

    caplog.set_level(logging.INFO)
    result = work.apply_async(expires=datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=DEADLINE_S)
    assert result.state == "REVOKED"
    assert f"{result.id} has an expiration date in the past" in caplog.text
    assert f"Discarding revoked task: {work.name}[{result.id}]" in caplog.text


def wrong_connections(database: Path) -> dict[str, Callable[[], Any]]:
    def engine() -> Any:
        return sa.create_engine(f"sqlite:///{database}")

    return {
        "a URL": lambda: f"sqlite:///{database}",
        "an engine": engine,
        "a connection of the driver": lambda: sqlite3.connect(database),
        "true": lambda: True,
    }


@pytest.mark.parametrize("kind", wrong_connections(Path()))
def test_a_connection_of_the_wrong_kind_fails_the_call(file_app: Celery, database: Path, kind: str) -> None:
    @file_app.task
    def work() -> None:
        raise AssertionError("ran")

    connection = wrong_connections(database)[kind]()
    complaint = r"connection: expected an SQLAlchemy Connection or Session .*, got <?.*; pass"
    with pytest.raises(TypeError, match=complaint):
        work.apply_async(connection=connection)
    if hasattr(connection, "close"):
        connection.close()
    assert nothing_was_enqueued(database)


def test_a_connection_of_kombu_is_accepted_without_effect(file_app: Celery) -> None:
    @file_app.task
    def work() -> str:
        return "ran"

    with Connection("memory://") as connection:
        assert work.apply_async(connection=connection).get(timeout=DEADLINE_S) == "ran"


def test_a_connection_to_another_database_fails_the_call_and_its_transaction(
    file_app: Celery, tmp_path: Path
) -> None:
    @file_app.task
    def work() -> None:
        raise AssertionError("ran")

    other = sa.create_engine(f"sqlite:///{tmp_path / 'other.sqlite3'}")
    with other.connect() as connection, pytest.raises(sa.exc.OperationalError, match="no such table"):
        work.apply_async(connection=connection)
    other.dispose()


# -- what arrives at a runtime ---------------------------------------------------------------------------


@pytest.fixture
def edited(make_app: MakeApp, database: Path) -> Callable[..., tuple[Celery, str, Any]]:
    """Publish a call, edit its row, start a runtime: the app, the id and a sound call after it."""

    def edit(statement: str, *values: Any, **settings: Any) -> tuple[Celery, str, Any]:
        app = make_app(worker_concurrency=1, **settings)

        @app.task(name="work")
        def work(*args: Any, **kwargs: Any) -> str:
            return "ran"

        app.conf.celerylite_runtime = "off"
        broken = work.delay(1)
        rows(database, f"update celerylite_messages set {statement}", *values)
        sound = work.delay()
        app.start_runtime()
        return app, broken.id, sound

    return edit


@pytest.mark.parametrize(
    ("statement", "value"),
    [
        ("headers = ?", "{"),
        ("headers = ?", "[]"),
        ("headers = ?", "null"),
        ("properties = ?", "no JSON"),
        ("properties = ?", '"text"'),
        ("body = ?", b"\xff\xfe"),
        ("body = ?", b"{"),
        ("body = ?", b"[]"),
        ("body = ?", b"null"),
        ("body = ?", b"[1, {}, {}]"),
        ("body = ?", b'["text", {}, {}]'),
        ("body = ?", b'[{"a": 1}, {}, {}]'),
        ("body = ?", b"[[], [], {}]"),
        ("body = ?", b"[[], {}, [1]]"),
        ("body = ?", b"[[], {}, {}, {}]"),
        ("content_type = ?", "application/x-unheard-of"),
        ("content_encoding = ?", "no-such-encoding"),
        ("headers = json_set(headers, '$.compression', ?)", "application/x-unheard-of"),
        ("headers = json_set(headers, '$.compression', ?)", "application/x-gzip"),
        ("headers = json_set(headers, '$.timelimit', ?)", "soon"),
        ("headers = json_set(headers, '$.retries', ?)", "many"),
        ("properties = json_set(properties, '$.delivery_info', ?)", "nowhere"),
        ("name = ?", b"\xff"),
    ],
)
def test_a_row_that_was_damaged_fails_visibly_and_stops_nothing(
    edited: Callable[..., tuple[Celery, str, Any]], statement: str, value: Any, database: Path
) -> None:
    app, broken, sound = edited(statement, value)
    assert sound.get(timeout=DEADLINE_S) == "ran"
    app.drain(DEADLINE_S)
    found = states_of(database)
    # Some damage does no harm.
    harmless = statement.startswith("content_encoding") or "json_set" in statement
    assert found.pop(sound.id) == "SUCCESS"
    assert found.keys() == {broken}
    assert found[broken] == "FAILURE" or (found[broken] == "SUCCESS" and harmless)
    assert rows(database, "select * from celerylite_messages") == []
    assert sound.get(timeout=DEADLINE_S) == "ran"


def test_a_damaged_row_is_named_in_the_log_and_in_the_result(
    edited: Callable[..., tuple[Celery, str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    app, broken, sound = edited("headers = '{'")
    assert sound.get(timeout=DEADLINE_S) == "ran"
    result: Any = app.AsyncResult(broken)
    assert result.state == "FAILURE"
    assert "could not be read" in str(result.result)
    assert f"task {broken}" in caplog.text


def test_a_task_that_nobody_knows_fails_visibly(
    edited: Callable[..., tuple[Celery, str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    app, broken, sound = edited("name = 'project.tasks.renamed'")
    assert sound.get(timeout=DEADLINE_S) == "ran"
    result: Any = app.AsyncResult(broken)
    with pytest.raises(NotRegistered, match=r"project\.tasks\.renamed"):
        result.get(timeout=DEADLINE_S)
    assert result.state == states.FAILURE
    app.stop_runtime()  # the log follows the commit
    assert "Received unregistered task of type 'project.tasks.renamed'." in caplog.text
    assert "Import the module that defines it" in caplog.text


def test_a_content_type_that_is_not_accepted_fails_visibly(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = make_app(task_serializer="pickle", celerylite_runtime="off")
    app = make_app(accept_content=["json"])

    @app.task(name="work")
    def work(value: Any) -> None:
        raise AssertionError("ran")

    result = publisher.send_task("work", ({1, 2},))
    app.start_runtime()
    with pytest.raises(ContentDisallowed, match="pickle"):
        result.get(timeout=DEADLINE_S)
    app.stop_runtime()  # the log follows the commit
    assert f"Task work[{result.id}] is kept as a FAILURE" in caplog.text


# -- what tasks return -----------------------------------------------------------------------------------


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_value_that_cannot_be_serialised_fails_the_task(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, *, coroutine: bool
) -> None:
    app = make_app(worker_concurrency=1)

    def value() -> Any:
        return Unserialisable()

    async def value_async() -> Any:
        return Unserialisable()

    def loop() -> Any:
        endless: list[Any] = []
        endless.append(endless)
        return endless

    task = app.task(name="value")(value_async if coroutine else value)
    with pytest.raises(EncodeError, match="Unserialisable is not JSON serializable"):
        task.delay().get(timeout=DEADLINE_S)
    assert task.AsyncResult(task.delay().id).get(timeout=DEADLINE_S, propagate=False) is not None
    # It holds itself.
    with pytest.raises(Exception, match=r"(?i)circular|recursion"):
        app.task(name="endless")(loop).delay().get(timeout=DEADLINE_S)

    @app.task
    def sound() -> str:
        return "ran"

    assert sound.delay().get(timeout=DEADLINE_S) == "ran"


def test_an_exception_that_cannot_be_serialised_fails_the_task_with_its_words(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=1)

    class Strange(Exception):
        def __init__(self, lock: Any, *, needed: str) -> None:
            super().__init__(lock)
            self.needed = needed

    @app.task
    def work() -> None:
        raise Strange(threading.Lock(), needed="yes")

    result = work.delay()
    with pytest.raises(Exception, match="lock"):
        result.get(timeout=DEADLINE_S)
    assert result.state == "FAILURE"


def test_an_exception_that_cannot_even_be_shown_fails_the_task(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=1)

    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

        __repr__ = __str__

    @app.task
    def work() -> None:
        raise Mute

    @app.task
    def sound() -> str:
        return "ran"

    result = work.delay()
    assert isinstance(result.get(timeout=DEADLINE_S, propagate=False), Exception)
    assert result.state == "FAILURE"
    assert sound.delay().get(timeout=DEADLINE_S) == "ran"


@pytest.mark.parametrize("hook", ["before_start", "on_success", "after_return", "on_failure"])
def test_a_handler_that_raises_stops_nothing(make_app: MakeApp, hook: str) -> None:
    app = make_app(worker_concurrency=1)

    def broken(self: Any, *args: Any, **kwargs: Any) -> None:
        raise RuntimeError("a broken handler")

    base = type("Broken", (app.Task,), {hook: broken, "abstract": True})

    @app.task(base=base)
    def work(fail: bool) -> str:
        if fail:
            raise ValueError("as asked")
        return "ran"

    for fail in (False, True, False):
        result: Any = work.delay(fail)
        result.get(timeout=DEADLINE_S, propagate=False)
        assert result.state == ("FAILURE" if fail or hook == "before_start" else "SUCCESS")


def test_a_defect_in_the_steps_costs_no_place_and_leaves_nothing_pending(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, database: Path
) -> None:
    """A backend of the user's own that raises what nobody expects."""
    app = make_app(worker_concurrency=1)

    @app.task(name="work")
    def work() -> str:
        return "ran"

    @app.task(name="work_async")
    async def work_async() -> str:
        return "ran"

    @app.task(name="sound")
    def sound() -> str:
        return "ran"

    class Broken(type(app.backend)):  # type: ignore[misc]
        def result_row(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
            raise LookupError(f"a defect with {task_id}")

    work.backend = work_async.backend = Broken(app=app)
    results = [work.delay(), work_async.delay(), work.delay()]
    assert sound.delay().get(timeout=DEADLINE_S) == "ran"
    app.drain(DEADLINE_S)
    for result in results:
        assert states_of(database)[result.id] == "FAILURE"
        assert f"a defect with {result.id}" in caplog.text
    assert rows(database, "select * from celerylite_messages") == []


def test_a_defect_in_the_steps_fails_what_follows_too(make_app: MakeApp) -> None:
    app = make_app()

    @app.task(name="work")
    def work(before: Any = None) -> str:
        return "ran"

    @app.task(name="sound")
    def sound(before: Any = None) -> str:
        return "ran"

    class Broken(type(app.backend)):  # type: ignore[misc]
        def result_row(self, task_id: str, *args: Any, **kwargs: Any) -> Any:
            raise LookupError(f"a defect with {task_id}")

    work.backend = Broken(app=app)
    for last in (chain(work.s(), sound.s(), sound.s())(), chord([work.s(), sound.s()])(sound.s())):
        with pytest.raises((LookupError, ChordError), match="a defect"):
            last.get(timeout=DEADLINE_S)


# -- settings --------------------------------------------------------------------------------------------


def test_a_database_in_a_directory_that_does_not_exist_is_named(make_app: MakeApp, tmp_path: Path) -> None:
    app = make_app(result_backend=f"db+sqlite:///{tmp_path}/missing/tasks.sqlite3")
    with pytest.raises(
        ImproperlyConfigured, match=r"expected an existing directory, got '.*missing'.*create it"
    ):
        app.send_task("anything")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_directory_that_cannot_be_written_is_named(make_app: MakeApp, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    app = make_app(result_backend=f"db+sqlite:///{closed}/tasks.sqlite3")
    with pytest.raises(ImproperlyConfigured, match=r"in a directory that can be written.*change its owner"):
        app.send_task("anything")


def test_a_file_that_is_no_database_is_named(make_app: MakeApp, database: Path) -> None:
    database.write_text("My diary, volume 3. " * 100)
    app = make_app()
    with pytest.raises(Exception, match=r"not a database") as raised:
        app.send_task("anything")
    assert str(database) in str(raised.value)
    assert database.read_text().startswith("My diary")


def test_a_newer_schema_is_refused(make_app: MakeApp, database: Path) -> None:
    app = make_app(celerylite_runtime="off")
    app.send_task("anything")
    app.close()
    rows(database, "update celerylite_meta set value = '999' where name = 'schema_version'")
    newer = make_app()
    with pytest.raises(SchemaTooNew, match=r"version \d+ or older, got 999; upgrade celerylite here"):
        newer.send_task("anything")
    assert rows(database, "select count(*) from celerylite_messages") == [(1,)]


def test_a_url_that_is_none_is_named(make_app: MakeApp) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"expected a URL such as 'sqlite:///jobs.db', got"):
        make_app(result_backend=None, database_url="not a url").send_task("anything")
    with pytest.raises(ImproperlyConfigured, match=r"expected one of .*sqlite.*, got 'oracle'"):
        make_app(result_backend="db+oracle://host/name").send_task("anything")
    with pytest.raises(ImproperlyConfigured, match="'memory', 'normal' or 'full', got 'extreme'"):
        make_app(celerylite_durability="extreme").send_task("anything")


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("celerylite_runtime", "sometimes", "'auto', 'on' or 'off'"),
        ("celerylite_beat", "maybe", "'auto', 'on' or 'off'"),
    ],
)
def test_a_setting_with_an_unknown_value_is_named(
    make_app: MakeApp, setting: str, value: str, expected: str
) -> None:
    app = make_app(**{setting: value})
    with pytest.raises(
        ImproperlyConfigured, match=f"{setting}: expected {expected}, got '{value}'; correct the setting"
    ):
        app.start_runtime()


def test_an_unknown_result_backend_is_named(make_app: MakeApp) -> None:
    app = make_app(result_backend="no-such-backend")
    with pytest.raises(ImproperlyConfigured, match="Unknown result backend: 'no-such-backend'"):
        _ = app.backend


def test_a_misspelt_setting_of_ours_is_said_once(make_app: MakeApp, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    app = make_app(celerylite_durabilty="full")
    app.start_runtime()
    assert caplog.text.count("celerylite_durabilty") == 1
    assert "did you mean celerylite_durability" in caplog.text
