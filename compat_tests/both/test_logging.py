"""Logging: the loggers of tasks, and the sentences that say what became of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest


class _Records(logging.Handler):
    """Keeps every record and tells the journal of it."""

    def __init__(self, journal: Any) -> None:
        super().__init__(logging.DEBUG)
        self.journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        self.journal.note((record.name, record.levelname, record.getMessage().split("\n")[0]))


#: Where the sentences come from; a worker's start takes the handlers off their parents.
LOGGERS = (
    "celery.app.trace",
    "celery.worker.consumer.consumer",
    "celery.worker.request",
    "celery.worker.strategy",
)


@pytest.fixture
def logged(lib: Any, journal: Any) -> Iterator[Callable[[str, str], tuple[str, str]]]:
    """`logged(level, part)` waits for a record of that level with that part; gives logger and text."""
    handler = _Records(journal)
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)

    def wait(levelname: str, part: str) -> tuple[str, str]:
        name, _, text = journal.find(lambda entry: entry[1] == levelname and part in entry[2])
        return name, text

    yield wait
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_a_task_logger_has_the_name_of_its_module(submodule: Callable[[str], Any]) -> None:
    logger = submodule("utils.log").get_task_logger("proj.tasks")
    assert logger.name == "proj.tasks"
    assert isinstance(logger, logging.Logger)


def test_a_task_logger_hangs_under_the_logger_of_tasks(submodule: Callable[[str], Any]) -> None:
    log = submodule("utils.log")
    assert log.get_task_logger("proj.one").parent is log.task_logger
    assert log.task_logger.name == "celery.task"


def test_the_name_of_the_task_logger_itself_is_reserved(submodule: Callable[[str], Any]) -> None:
    with pytest.raises(RuntimeError, match="Logger name 'celery' is reserved!"):
        submodule("utils.log").get_task_logger("celery")


def test_the_formatter_of_tasks_knows_the_running_task(
    running_app: Any, submodule: Callable[[str], Any]
) -> None:
    formatter = submodule("app.log").TaskFormatter("%(task_name)s[%(task_id)s] %(message)s")

    @running_app.task(name="logging.formats")
    def job() -> str:
        record = logging.LogRecord("n", logging.INFO, "p", 1, "said", (), None)
        return str(formatter.format(record))

    result = job.delay()
    assert result.get(timeout=10) == f"logging.formats[{result.id}] said"


def test_the_formatter_of_tasks_shows_question_marks_outside_of_one(
    app: Any, submodule: Callable[[str], Any]
) -> None:
    formatter = submodule("app.log").TaskFormatter("%(task_name)s[%(task_id)s] %(message)s")
    record = logging.LogRecord("n", logging.INFO, "p", 1, "said", (), None)
    assert formatter.format(record) == "???[???] said"


def test_the_reception_of_a_task_is_logged(app: Any, start_worker: Any, logged: Any) -> None:
    @app.task(name="logging.job")
    def job() -> None: ...

    with start_worker(app, loglevel="INFO"):
        result = job.delay()
        name, text = logged("INFO", "received")
    assert (name, text) == ("celery.worker.strategy", f"Task logging.job[{result.id}] received")


def test_a_success_is_logged_with_its_value(app: Any, start_worker: Any, logged: Any) -> None:
    @app.task(name="logging.job")
    def job() -> dict[str, int]:
        return {"a": 1}

    with start_worker(app, loglevel="INFO"):
        result = job.delay()
        name, text = logged("INFO", "succeeded")
    assert name == "celery.app.trace"
    assert text.startswith(f"Task logging.job[{result.id}] succeeded in ")
    assert text.endswith("s: {'a': 1}")


def test_a_failure_is_logged_as_unexpected(app: Any, start_worker: Any, logged: Any) -> None:
    @app.task(name="logging.job")
    def job() -> None:
        raise ValueError("logged")

    with start_worker(app, loglevel="INFO"):
        result = job.delay()
        name, text = logged("ERROR", "raised unexpected")
    assert name == "celery.app.trace"
    assert text == f"Task logging.job[{result.id}] raised unexpected: ValueError('logged')"


def test_an_expected_failure_is_logged_softly(app: Any, start_worker: Any, logged: Any) -> None:
    @app.task(name="logging.job", throws=(ValueError,))
    def job() -> None:
        raise ValueError("logged")

    with start_worker(app, loglevel="INFO"):
        result = job.delay()
        _, text = logged("INFO", "raised expected")
    assert text == f"Task logging.job[{result.id}] raised expected: ValueError('logged')"


def test_a_retry_is_logged(app: Any, start_worker: Any, logged: Any) -> None:
    @app.task(name="logging.job", bind=True)
    def job(self: Any) -> None:
        raise self.retry(exc=ValueError("logged"), countdown=3600)

    with start_worker(app, loglevel="INFO"):
        result = job.delay()
        _, text = logged("INFO", "retry:")
    assert text == f"Task logging.job[{result.id}] retry: Retry in 3600s: ValueError('logged')"


def test_an_ignored_task_is_logged(
    app: Any, start_worker: Any, logged: Any, submodule: Callable[[str], Any]
) -> None:
    ignore = submodule("exceptions").Ignore

    @app.task(name="logging.job")
    def job() -> None:
        raise ignore

    with start_worker(app, loglevel="INFO"):
        result = job.delay()
        _, text = logged("INFO", "ignored")
    assert text == f"Task logging.job[{result.id}] ignored"


def test_a_rejected_task_is_logged(
    app: Any, start_worker: Any, logged: Any, submodule: Callable[[str], Any]
) -> None:
    reject = submodule("exceptions").Reject

    @app.task(name="logging.job")
    def job() -> None:
        raise reject("no")

    with start_worker(app, loglevel="INFO"):
        result = job.delay()
        _, text = logged("WARNING", "reject")
    assert text == f"Task logging.job[{result.id}] reject requeue=False: no"


def test_an_unknown_task_is_logged(app: Any, start_worker: Any, logged: Any) -> None:
    with start_worker(app, loglevel="INFO"):
        app.send_task("nobody.has.this")
        name, text = logged("ERROR", "Received unregistered task")
    assert name == "celery.worker.consumer.consumer"
    assert text == "Received unregistered task of type 'nobody.has.this'."


def test_records_of_a_task_carry_its_data(app: Any, start_worker: Any, journal: Any) -> None:
    class Data(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            data = getattr(record, "data", None)
            if data and "succeeded" in record.getMessage():
                journal.note({key: data[key] for key in ("id", "name", "return_value")})

    @app.task(name="logging.job")
    def job() -> int:
        return 5

    handler = Data()
    logger = logging.getLogger("celery.app.trace")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with start_worker(app, loglevel="INFO"):
            result = job.delay()
            journal.until({"id": result.id, "name": "logging.job", "return_value": "5"})
    finally:
        logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)


def test_a_long_value_is_cut_in_the_log(app: Any, start_worker: Any, logged: Any) -> None:
    @app.task(name="logging.job")
    def job() -> str:
        return "x" * 10_000

    with start_worker(app, loglevel="INFO"):
        job.delay()
        _, text = logged("INFO", "succeeded")
    assert len(text) < 1500


def test_the_shadow_name_is_the_one_in_the_log(app: Any, start_worker: Any, logged: Any) -> None:
    @app.task(name="logging.job")
    def job() -> None: ...

    with start_worker(app, loglevel="INFO"):
        result = job.apply_async(shadow="job for anna")
        _, text = logged("INFO", "received")
    assert text == f"Task job for anna[{result.id}] received"
