"""One result database for both: what celerylite wrote Celery reads, and the other way round."""

from __future__ import annotations

import importlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

pytestmark = pytest.mark.only("celerylite")

celery = pytest.importorskip("celery")
pytest.importorskip("sqlalchemy")


class Parties:
    """Two apps of the two libraries on one result database: one writes by running tasks, the other reads."""

    def __init__(self, writer: Any, reader: Any) -> None:
        self.writer = writer
        self.reader = reader

    def read(self, result: Any) -> Any:
        """The reader's own result for what the writer has just finished."""
        result.get(timeout=10, propagate=False)
        return self.reader.AsyncResult(result.id)


def _library(name: str) -> Any:
    return importlib.import_module(name)


def _app(name: str, url: str, stack: ExitStack, **settings: Any) -> Any:
    app = _library(name).Celery(
        f"on {name}", broker_url="memory://", result_backend=url, set_as_current=False
    )
    app.conf.update(settings)
    stack.callback(app.close)
    return app


def _run(app: Any, name: str, stack: ExitStack) -> None:
    testing = _library(f"{name}.contrib.testing.worker")
    pool = "solo" if name == "celery" else "threads"
    stack.enter_context(testing.start_worker(app, pool=pool, perform_ping_check=False))


DIRECTIONS = [("celerylite", "celery"), ("celery", "celerylite")]


@pytest.fixture(params=DIRECTIONS, ids=["celery reads", "celerylite reads"])
def direction(request: pytest.FixtureRequest) -> tuple[str, str]:
    chosen: tuple[str, str] = request.param
    return chosen


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"db+sqlite:///{tmp_path / 'results.sqlite3'}"


@pytest.fixture
def parties(direction: tuple[str, str], url: str, hastened_celery: None) -> Iterator[Callable[..., Parties]]:
    """`parties(**settings)` makes both apps with those settings and starts the writer's worker."""
    writer, reader = direction
    with ExitStack() as stack:

        def make(**settings: Any) -> Parties:
            both = Parties(_app(writer, url, stack, **settings), _app(reader, url, stack, **settings))
            _run(both.writer, writer, stack)
            return both

        yield make


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        1.5,
        "ünï",
        True,
        [1, [2, {"a": None}]],
        {"a": {"b": [1]}},
        "x" * 100_000,
        datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        Decimal("1.10"),
        UUID("12345678-1234-5678-1234-567812345678"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_value_is_read_as_it_was_returned(parties: Callable[..., Parties], value: Any) -> None:
    both = parties()

    @both.writer.task(shared=False)
    def job() -> Any:
        return value

    read = both.read(job.delay())
    assert (read.state, read.result) == ("SUCCESS", value)
    assert read.get(timeout=10) == value


def test_an_exception_is_read_with_class_arguments_and_traceback(parties: Callable[..., Parties]) -> None:
    both = parties()

    @both.writer.task(shared=False)
    def job() -> None:
        raise KeyError("missing", 5)

    read = both.read(job.delay())
    assert read.state == "FAILURE"
    assert type(read.result) is KeyError
    assert read.result.args == ("missing", 5)
    assert "KeyError: ('missing', 5)" in read.traceback
    with pytest.raises(KeyError):
        read.get(timeout=10)


class OwnError(Exception):
    """An exception that both sides can import."""


def test_an_exception_of_the_users_own_is_read_as_itself(parties: Callable[..., Parties]) -> None:
    both = parties()

    @both.writer.task(shared=False)
    def job() -> None:
        raise OwnError("own", 1)

    read = both.read(job.delay())
    assert type(read.result) is OwnError
    assert read.result.args == ("own", 1)


def test_children_are_read(parties: Callable[..., Parties]) -> None:
    both = parties()

    @both.writer.task(shared=False)
    def leaf(x: int) -> int:
        return x * 10

    @both.writer.task(shared=False)
    def root() -> str:
        return ",".join(leaf.delay(x).id for x in range(2))

    read = both.read(root.delay())
    assert [child.id for child in read.children] == read.result.split(",")
    assert [child.get(timeout=10) for child in read.children] == [0, 10]


def test_a_group_inside_a_task_is_read_as_a_group(
    direction: tuple[str, str], parties: Callable[..., Parties]
) -> None:
    both = parties()
    library = _library(direction[0])

    @both.writer.task(shared=False)
    def leaf(x: int) -> int:
        return x * 10

    @both.writer.task(shared=False)
    def root() -> None:
        library.group([leaf.s(1), leaf.s(2)], app=both.writer).delay()

    read = both.read(root.delay())
    (child,) = read.children
    assert child.get(timeout=10) == [10, 20]


def test_a_saved_group_is_restored_on_the_other_side(
    direction: tuple[str, str], parties: Callable[..., Parties]
) -> None:
    both = parties()

    @both.writer.task(shared=False)
    def leaf(x: int) -> int:
        return x * 10

    result = _library(direction[0]).group([leaf.s(1), leaf.s(2)], app=both.writer)()
    result.save()
    assert result.get(timeout=10) == [10, 20]
    restored = both.reader.GroupResult.restore(result.id)
    assert restored.id == result.id
    assert [one.id for one in restored.results] == [one.id for one in result.results]
    assert restored.get(timeout=10) == [10, 20]


def test_a_group_that_nobody_saved_is_not_there(parties: Callable[..., Parties]) -> None:
    assert parties().reader.GroupResult.restore("never-saved") is None


def test_progress_is_read(parties: Callable[..., Parties]) -> None:
    both = parties()
    both.writer.backend.store_result("in-progress", {"done": 3}, "PROGRESS")
    read = both.reader.AsyncResult("in-progress")
    assert (read.state, read.info) == ("PROGRESS", {"done": 3})


def test_a_retry_is_read_with_its_exception(parties: Callable[..., Parties]) -> None:
    both = parties()
    both.writer.backend.mark_as_retry("to-retry", ValueError("again"), traceback="text")
    read = both.reader.AsyncResult("to-retry")
    assert (read.state, repr(read.result)) == ("RETRY", "ValueError('again')")


def test_a_revocation_is_read(parties: Callable[..., Parties]) -> None:
    both = parties()
    both.writer.backend.mark_as_revoked("gone", "revoked")
    read = both.reader.AsyncResult("gone")
    assert read.state == "REVOKED"
    assert type(read.result).__name__ == "TaskRevokedError"
    assert str(read.result) == "revoked"


def test_an_id_without_a_row_is_pending_on_both_sides(parties: Callable[..., Parties]) -> None:
    both = parties()
    assert both.reader.AsyncResult("unknown").state == both.writer.AsyncResult("unknown").state == "PENDING"


def test_the_extended_columns_are_read(parties: Callable[..., Parties]) -> None:
    both = parties(result_extended=True)

    @both.writer.task(name="interop.extended", shared=False)
    def job(x: int, y: int = 0) -> int:
        return x + y

    read = both.read(job.apply_async((1,), {"y": 2}))
    assert read.name == "interop.extended"
    assert list(read.args) == [1]
    assert read.kwargs == {"y": 2}
    assert read.retries == 0
    assert read.queue == "celery"
    assert read.worker


def test_the_time_it_was_done_is_read(parties: Callable[..., Parties]) -> None:
    both = parties()

    @both.writer.task(shared=False)
    def job() -> None: ...

    result = job.delay()
    read = both.read(result)
    assert isinstance(read.date_done, datetime)
    assert _naive(read.date_done) == _naive(both.writer.AsyncResult(result.id).date_done)


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def test_what_one_side_forgets_is_gone_for_the_other(parties: Callable[..., Parties]) -> None:
    both = parties()

    @both.writer.task(shared=False)
    def job() -> int:
        return 1

    read = both.read(job.delay())
    assert read.state == "SUCCESS"
    read.forget()
    assert both.writer.AsyncResult(read.id).state == "PENDING"


def test_a_success_of_one_side_is_not_overwritten_by_the_other(parties: Callable[..., Parties]) -> None:
    both = parties()
    both.writer.backend.store_result("done", 1, "SUCCESS")
    assert both.reader.AsyncResult("done").result == 1


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_the_serializer_of_results_changes_nothing(parties: Callable[..., Parties], serializer: str) -> None:
    both = parties(result_serializer=serializer, accept_content=["json", "pickle"])

    @both.writer.task(shared=False)
    def job() -> Any:
        return {"a": [1, 2]}

    assert both.read(job.delay()).result == {"a": [1, 2]}


def test_both_sides_write_into_one_table(url: str, hastened_celery: None) -> None:
    with ExitStack() as stack:
        apps = [_app(name, url, stack) for name in ("celerylite", "celery")]
        for number, app in enumerate(apps):
            app.backend.store_result(f"from-{number}", number, "SUCCESS")
        assert [app.AsyncResult("from-0").result for app in apps] == [0, 0]
        assert [app.AsyncResult("from-1").result for app in apps] == [1, 1]


@pytest.mark.parametrize("extended", [False, True], ids=["plain", "extended"])
def test_a_database_that_celery_made_keeps_working(
    url: str, tmp_path: Path, hastened_celery: None, extended: bool
) -> None:
    with ExitStack() as stack:
        theirs = _app("celery", url, stack, result_extended=extended)
        theirs.backend.store_result("old", [1, 2], "SUCCESS")
        ours = _app("celerylite", url, stack, result_extended=extended)
        _run(ours, "celerylite", stack)

        @ours.task(shared=False)
        def job() -> str:
            return "new"

        assert ours.AsyncResult("old").result == [1, 2]
        result = job.delay()
        assert result.get(timeout=10) == "new"
        assert theirs.AsyncResult(result.id).result == "new"


def test_the_columns_of_the_tables_are_celerys(tmp_path: Path, hastened_celery: None) -> None:
    columns = {}
    for name in ("celery", "celerylite"):
        path = tmp_path / f"{name}.sqlite3"
        with ExitStack() as stack:
            app = _app(name, f"db+sqlite:///{path}", stack, result_extended=True)
            app.backend.store_result("any", 1, "SUCCESS")
        with sqlite3.connect(path) as connection:
            columns[name] = {
                table: {row[1]: row[2] for row in connection.execute(f"PRAGMA table_info({table})")}
                for table in ("celery_taskmeta", "celery_tasksetmeta")
            }
        connection.close()
    assert columns["celerylite"] == columns["celery"]
