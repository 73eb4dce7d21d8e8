"""How logging is set up: formats, handlers, signals, standard outputs."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("", "celery", "celery.task", "celery.redirected", "py.warnings")


@pytest.fixture
def log(new_app: Callable[..., Any], submodule: Callable[[str], Any]) -> Iterator[Callable[..., Any]]:
    """Make the `app.log` of an app with settings, as in a process where nobody has set logging up."""
    logging_class = submodule("app.log").Logging
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(logger, list(logger.handlers), logger.level, logger.propagate) for logger in loggers]
    environ, outputs, was_setup = dict(os.environ), (sys.stdout, sys.stderr), logging_class._setup
    logging_class._setup = False

    def make(**settings: Any) -> Any:
        # Only now: pytest adds handlers of its own when the test begins.
        for logger in loggers:
            logger.handlers[:] = []
        return new_app(**settings).log

    yield make
    for logger, handlers, level, propagate in before:
        for handler in logger.handlers:
            handler.close()
        logger.handlers[:], logger.propagate = handlers, propagate
        logger.setLevel(level)
    logging.captureWarnings(False)
    logging_class._setup = was_setup
    os.environ.clear()
    os.environ.update(environ)
    sys.stdout, sys.stderr = outputs


def _record(message: str = "hello", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("name", level, "path", 1, message, None, None)


def test_the_root_logger_writes_in_the_format_of_the_worker(log: Callable[..., Any]) -> None:
    stream = io.StringIO()
    assert log().setup_logging_subsystem(logging.INFO, stream) == []
    logging.getLogger("of.mine").info("hello")
    assert stream.getvalue().endswith(": INFO/MainProcess] hello\n")


def test_formats_are_settings(log: Callable[..., Any]) -> None:
    stream = io.StringIO()
    settings = {"worker_log_format": "%(asctime)s W %(message)s", "worker_log_datefmt": "NOW"}
    log(**settings, worker_task_log_format="T %(task_name)s %(message)s").setup_logging_subsystem(
        "INFO", stream
    )
    logging.getLogger("of.mine").info("one")
    logging.getLogger("celery.task").info("two")
    assert stream.getvalue() == "NOW W one\nT ??? two\n"


def test_the_level_is_warning_unless_said(log: Callable[..., Any]) -> None:
    log().setup_logging_subsystem(logfile=io.StringIO())
    assert logging.getLogger().level == logging.WARNING
    assert logging.getLogger("celery.task").level == logging.WARNING


def test_only_the_first_call_sets_logging_up(log: Callable[..., Any]) -> None:
    logging_of_app = log()
    assert logging_of_app.setup_logging_subsystem(logfile=io.StringIO()) is not None
    assert logging_of_app.already_setup
    assert logging_of_app.setup_logging_subsystem(logfile=io.StringIO()) is None
    assert len(logging.getLogger().handlers) == 1
    logging_of_app.already_setup = False
    assert logging_of_app.setup_logging_subsystem(logfile=io.StringIO()) is not None


def test_handlers_that_were_there_are_replaced(log: Callable[..., Any]) -> None:
    mine, logging_of_app = logging.StreamHandler(io.StringIO()), log()
    logging.getLogger().addHandler(mine)
    logging_of_app.setup_logging_subsystem(logfile=io.StringIO())
    assert mine not in logging.getLogger().handlers


def test_handlers_that_were_there_stay_if_the_root_logger_is_not_hijacked(log: Callable[..., Any]) -> None:
    mine, logging_of_app = logging.StreamHandler(io.StringIO()), log(worker_hijack_root_logger=False)
    logging.getLogger().addHandler(mine)
    logging_of_app.setup_logging_subsystem(logfile=io.StringIO())
    assert logging.getLogger().handlers == [mine]


def test_a_receiver_of_setup_logging_takes_it_over(
    log: Callable[..., Any], receive: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    given: list[dict[str, Any]] = []
    receive(submodule("signals").setup_logging, lambda **kw: given.append(kw))
    stream = io.StringIO()
    answers = log().setup_logging_subsystem("DEBUG", stream)
    assert len(answers) == 1
    assert logging.getLogger().handlers == []
    assert {key: given[0][key] for key in ("sender", "loglevel", "logfile", "colorize")} == {
        "sender": None,
        "loglevel": logging.DEBUG,
        "logfile": stream,
        "colorize": False,
    }
    assert given[0]["format"] == "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"


def test_what_a_receiver_of_setup_logging_raises_is_raised(
    log: Callable[..., Any], receive: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    def broken(**kwargs: Any) -> None:
        raise ValueError("no logging today")

    receive(submodule("signals").setup_logging, broken)
    logging_of_app = log()
    with pytest.raises(ValueError, match="no logging today"):
        logging_of_app.setup_logging_subsystem()
    assert not logging_of_app.already_setup


def test_receivers_get_the_loggers_after_their_set_up(
    log: Callable[..., Any], receive: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    signals, given = submodule("signals"), []
    for signal in (signals.after_setup_logger, signals.after_setup_task_logger):
        receive(signal, lambda **kw: given.append((kw["logger"].name, kw["loglevel"], sorted(kw))))
    log().setup_logging_subsystem(logging.ERROR, io.StringIO())
    names = ["colorize", "format", "logfile", "logger", "loglevel", "sender", "signal"]
    assert given == [("root", logging.ERROR, names), ("celery.task", logging.ERROR, names)]


def test_the_task_logger_does_not_propagate(log: Callable[..., Any]) -> None:
    stream = io.StringIO()
    logger = log().setup_task_loggers(logging.INFO, stream)
    assert (logger.name, bool(logger.propagate)) == ("celery.task", False)
    logger.info("hello")
    assert stream.getvalue().count("hello") == 1


def test_a_line_of_a_task_names_the_task_and_its_id(
    log: Callable[..., Any], new_app: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    stream = io.StringIO()
    log().setup_task_loggers(logging.INFO, stream)
    logger = submodule("utils.log").get_task_logger("of.my.module")
    app = new_app(task_always_eager=True)

    def say() -> None:
        logger.info("hello")

    app.task(name="say.it")(say).apply(task_id="the-id")
    assert stream.getvalue().endswith("] say.it[the-id]: hello\n")


def test_outside_of_a_task_there_is_no_name_and_no_id(submodule: Callable[[str], Any]) -> None:
    formatter = submodule("app.log").TaskFormatter("%(task_name)s[%(task_id)s] %(message)s", use_color=False)
    assert formatter.format(_record()) == "???[???] hello"


def test_a_name_and_an_id_that_the_caller_gives_stay(submodule: Callable[[str], Any]) -> None:
    formatter = submodule("app.log").TaskFormatter("%(task_name)s[%(task_id)s] %(message)s", use_color=False)
    record = _record()
    record.__dict__.update(task_name="given", task_id="too")
    assert formatter.format(record) == "given[too] hello"


def test_a_log_file_may_hold_the_name_of_the_node(log: Callable[..., Any], tmp_path: Path) -> None:
    log().setup_logging_subsystem("INFO", str(tmp_path / "%n.log"), hostname="worker1@example.com")
    logging.getLogger("of.mine").info("hello")
    assert "hello" in (tmp_path / "worker1.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("%%n-%n.log", "%n-me.log"),
        ("%%x.log", "%x.log"),
        ("50%%d.log", "50%d.log"),
        ("%%%n.log", "%me.log"),
        ("%%%%n.log", "%%n.log"),
        ("%d-%h.log", "example.com-host.example.com.log"),
        # Children of a pool have numbers; the process itself has none.
        ("%i%I.log", "0.log"),
        ("100%.log", "100%.log"),
    ],
)
def test_two_percent_signs_are_one_in_the_name_of_a_log_file(
    log: Callable[..., Any], tmp_path: Path, name: str, expected: str
) -> None:
    log().setup_logging_subsystem("INFO", str(tmp_path / name), hostname="me@host.example.com")
    logging.getLogger("of.mine").info("hello")
    assert [path.name for path in tmp_path.iterdir()] == [expected]
    assert "hello" in (tmp_path / expected).read_text()


def test_an_unknown_letter_in_the_name_of_a_log_file_is_refused(
    log: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Unknown format %x"):
        log().setup_logging_subsystem("INFO", str(tmp_path / "%x.log"), hostname="me@host.example.com")


def test_setup_leaves_its_choice_for_children(log: Callable[..., Any], tmp_path: Path) -> None:
    path = str(tmp_path / "out.log")
    log().setup("INFO", path)
    assert os.environ["CELERY_LOG_LEVEL"] == str(logging.INFO)
    assert os.environ["CELERY_LOG_FILE"] == path


def test_setup_can_send_what_is_printed_to_the_log(log: Callable[..., Any], tmp_path: Path) -> None:
    path = tmp_path / "out.log"
    log().setup("INFO", str(path), redirect_stdouts=True, redirect_level="ERROR")
    print("printed")
    assert path.read_text(encoding="utf-8").endswith("ERROR/MainProcess] printed\n")
    assert os.environ["CELERY_LOG_REDIRECT"] == "1"
    assert os.environ["CELERY_LOG_REDIRECT_LEVEL"] == "ERROR"


def test_what_is_printed_stays_if_a_receiver_set_logging_up(
    log: Callable[..., Any], receive: Callable[..., Any], submodule: Callable[[str], Any]
) -> None:
    receive(submodule("signals").setup_logging, lambda **kw: None)
    before = sys.stdout
    assert log().setup("INFO", redirect_stdouts=True)
    assert sys.stdout is before


def test_one_of_the_outputs_can_be_left_alone(log: Callable[..., Any]) -> None:
    before = sys.stderr
    proxy = log().redirect_stdouts_to_logger(logging.getLogger("of.mine"), stderr=False)
    assert sys.stdout is proxy
    assert sys.stderr is before


@pytest.mark.parametrize(
    ("setting", "asked", "logfile", "expected"),
    [
        (None, None, None, True),
        (None, True, None, True),
        (None, False, None, False),
        (False, None, None, False),
        (None, True, "file.log", False),
    ],
)
def test_colours_are_for_terminals(
    log: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    setting: bool | None,
    asked: bool | None,
    logfile: str | None,
    expected: bool,
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    logging_of_app = log(worker_log_color=setting)
    assert logging_of_app.supports_color(asked, logfile) is expected
    assert logging_of_app.colored(logfile, asked).enabled is expected


def test_without_a_terminal_there_are_no_colours(
    log: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert log().supports_color(True) is False


def test_a_logger_with_a_handler_keeps_it(log: Callable[..., Any]) -> None:
    logger, logging_of_app = logging.getLogger("celery.redirected"), log()
    mine = logging.StreamHandler(io.StringIO())
    logger.addHandler(mine)
    assert logging_of_app.setup_handlers(logger, io.StringIO(), "%(message)s", False) is logger
    assert logger.handlers == [mine]


def test_a_handler_that_drops_everything_does_not_count(log: Callable[..., Any]) -> None:
    logger, logging_of_app = logging.getLogger("celery.redirected"), log()
    logger.addHandler(logging.NullHandler())
    logging_of_app.setup_handlers(logger, io.StringIO(), "%(message)s", False, datefmt="%Y")
    assert len(logger.handlers) == 2
    assert logger.handlers[1].formatter is not None
    assert logger.handlers[1].formatter.datefmt == "%Y"
