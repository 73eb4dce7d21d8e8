"""Loggers: where they hang, what they look like, and writing to them as to a file."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from celerylite.utils.log import (
    ColorFormatter,
    LoggingProxy,
    base_logger,
    get_logger,
    get_task_logger,
    in_sighandler,
    mlevel,
    task_logger,
    worker_logger,
)


def test_task_loggers_hang_under_celery_s_names() -> None:
    logger = get_task_logger("tasks_of_this_test")
    assert logger.parent is task_logger
    assert task_logger.name == "celery.task"
    assert worker_logger.parent is base_logger
    assert get_logger("celery") is base_logger
    assert get_task_logger("tasks_of_this_test") is logger


@pytest.mark.parametrize("name", ["celery", "celery.task"])
def test_the_parents_are_not_for_tasks(name: str) -> None:
    with pytest.raises(RuntimeError, match="is reserved!"):
        get_task_logger(name)


def test_a_level_may_be_a_name() -> None:
    assert (mlevel("info"), mlevel(10), mlevel(None)) == (logging.INFO, 10, None)


def _record(level: int, message: Any) -> logging.LogRecord:
    return logging.LogRecord("x", level, __file__, 1, message, (), None)


def test_severity_has_a_colour_when_wanted() -> None:
    assert "\033[1;31m" in ColorFormatter("%(message)s").format(_record(logging.ERROR, "foo"))
    assert ColorFormatter("%(message)s", use_color=False).format(_record(logging.ERROR, "foo")) == "foo"
    assert ColorFormatter("%(message)s").format(_record(logging.INFO, "foo")) == "foo"


def test_what_is_written_becomes_one_record_without_its_line_end(caplog: pytest.LogCaptureFixture) -> None:
    proxy = LoggingProxy(logging.getLogger("proj.stdout"), "WARNING")
    with caplog.at_level(logging.WARNING):
        assert proxy.write("foo\n") == 3
        assert proxy.write("\n") == 0
        proxy.writelines(["a", "b"])
        proxy.close()
        assert proxy.write("late") == 0
    assert [record.message for record in caplog.records] == ["foo", "a", "b"]
    assert not proxy.isatty()


def test_a_signal_handler_writes_past_logging(capfd: pytest.CaptureFixture[str]) -> None:
    proxy = LoggingProxy(logging.getLogger("proj.stdout"), "WARNING")
    with in_sighandler():
        assert proxy.write("foo") == 3
    assert capfd.readouterr().err == "foo\n"
