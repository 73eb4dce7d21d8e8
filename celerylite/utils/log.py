"""The loggers of the package, and the tools to write to them."""

from __future__ import annotations

import logging
import numbers
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kombu.log import LOG_LEVELS
from kombu.utils.encoding import safe_str

from .term import colored

__all__ = (
    "ColorFormatter",
    "LoggingProxy",
    "base_logger",
    "set_in_sighandler",
    "in_sighandler",
    "get_logger",
    "get_task_logger",
    "mlevel",
    "get_multiprocessing_logger",
    "reset_multiprocessing_logger",
    "LOG_LEVELS",
)

#: Parents that a task's own logger must not be named after.
RESERVED_LOGGER_NAMES = {"celery", "celery.task"}

#: Longest chain of parents that is believed.
_MAX_PARENTS = 1000

_in_sighandler = False

#: Above every logger of the package. Its name is Celery's, so that logging set-ups keep working.
base_logger = logger = logging.getLogger("celery")


def set_in_sighandler(value: bool) -> None:
    """Note whether a signal handler is running: then nothing may take the locks of logging."""
    global _in_sighandler
    _in_sighandler = value


@contextmanager
def in_sighandler() -> Iterator[None]:
    """Note that a signal handler is running, for the block."""
    set_in_sighandler(True)
    try:
        yield
    finally:
        set_in_sighandler(False)


def logger_isa(l: Any, p: Any, max: int = _MAX_PARENTS) -> bool:  # noqa: E741 - Celery's argument name
    """Is `p` the logger `l` or above it? Raises RuntimeError when the parents go in a circle."""
    seen: set[Any] = set()
    this = l
    while this:
        if this is p:
            return True
        if this in seen:
            raise RuntimeError(f"Logger {l.name!r} parents recursive")
        if len(seen) >= max:
            raise RuntimeError(f"Logger hierarchy exceeds {max}")
        seen.add(this)
        this = this.parent
    return False


def _under(parent: logging.Logger, child: logging.Logger) -> logging.Logger:
    if not logger_isa(child, parent):
        child.parent = parent
    return child


def get_logger(name: str | logging.Logger) -> logging.Logger:
    """The logger of this name; one that already has a parent of its own is put under `celery`."""
    # Without the NullHandler that libraries like to add: where a program has set up no logging, Python's
    # last resort prints what is a warning or worse, and a task that fails must not fail in silence.
    found = name if isinstance(name, logging.Logger) else logging.getLogger(name)
    if logging.root not in (found, found.parent) and found is not base_logger:
        found = _under(base_logger, found)
    return found


task_logger = get_logger("celery.task")
worker_logger = get_logger("celery.worker")


def get_task_logger(name: str) -> logging.Logger:
    """A logger for a module of tasks: its records carry the task's name and id.

    Raises RuntimeError for `celery`.
    """
    if name in RESERVED_LOGGER_NAMES:
        raise RuntimeError(f"Logger name {name!r} is reserved!")
    return _under(task_logger, get_logger(name))


def mlevel(level: Any) -> Any:
    """The number of a log level given by name; numbers and None as they are."""
    if level and not isinstance(level, numbers.Integral):
        return LOG_LEVELS[level.upper()]
    return level


class ColorFormatter(logging.Formatter):
    """Formats records in the colour of their severity. Never raises: what cannot be shown is said so."""

    #: Colour name to function.
    COLORS = colored().names
    #: Level name to function.
    colors = {  # noqa: RUF012 - users change it in place, as in Celery
        "DEBUG": COLORS["blue"],
        "WARNING": COLORS["yellow"],
        "ERROR": COLORS["red"],
        "CRITICAL": COLORS["magenta"],
    }

    def __init__(self, fmt: str | None = None, use_color: bool = True, datefmt: str | None = None) -> None:
        super().__init__(fmt, datefmt)
        self.use_color = use_color

    def formatException(self, ei: Any) -> str:
        """The traceback as text; takes the tuple, or anything true for the exception being handled."""
        return super().formatException(ei if isinstance(ei, tuple) or not ei else sys.exc_info())

    def format(self, record: logging.LogRecord) -> str:
        """The line, coloured if there is a colour for its level."""
        text = super().format(record)
        color = self.colors.get(record.levelname)
        if not (color and self.use_color):
            return str(safe_str(text))
        try:
            # A message that is no text is coloured first: its own formatting would drop the colour.
            return str(color(safe_str(text))) if isinstance(text, str) else str(safe_str(color(text)))
        except Exception as exc:
            return self._unrepresentable(record, text, exc)

    def _unrepresentable(self, record: logging.LogRecord, text: Any, exc: Exception) -> str:
        message, exc_info = record.msg, record.exc_info
        # The record goes on to other handlers, so it is put back as it was.
        record.msg, record.exc_info = f"<Unrepresentable {type(text)!r}: {exc!r}>", sys.exc_info()
        try:
            return super().format(record)
        finally:
            record.msg, record.exc_info = message, exc_info


class LoggingProxy:
    """A file to write to, whose lines go to a logger: what `print` in a task becomes."""

    mode = "w"
    name: str | None = None
    closed = False
    loglevel: Any = logging.ERROR
    _thread = threading.local()

    def __init__(self, logger: logging.Logger, loglevel: Any = None) -> None:
        self.logger = logger
        self.loglevel = mlevel(loglevel or self.logger.level or self.loglevel)
        self._safewrap_handlers()

    def _safewrap_handlers(self) -> None:
        # A handler that fails reports to sys.stderr, which may be this very object: use the real one.
        for handler in self.logger.handlers:
            handler.handleError = _report_to_real_stderr  # type: ignore[method-assign]

    def write(self, data: Any) -> int:
        """Log the text without its line end; how many characters were logged."""
        if _in_sighandler:
            text = safe_str(data)
            print(text, file=sys.__stderr__)
            return len(text)
        if getattr(self._thread, "recurse_protection", False) or not data or self.closed:
            # Nothing to say, or the logger is writing to this very file.
            return 0
        self._thread.recurse_protection = True
        try:
            text = safe_str(data).rstrip("\n")
            if text:
                self.logger.log(self.loglevel, text)
            return len(text)
        finally:
            self._thread.recurse_protection = False

    def writelines(self, sequence: Iterable[Any]) -> None:
        """Write one after the other."""
        for part in sequence:
            self.write(part)

    def flush(self) -> None:
        """Nothing to do: nothing is held back."""

    def close(self) -> None:
        """Drop what is written from now on."""
        self.closed = True

    def isatty(self) -> bool:
        """Never: a logger is no terminal."""
        return False


def _report_to_real_stderr(record: logging.LogRecord) -> None:
    with suppress(OSError):
        traceback.print_exc(None, sys.__stderr__)


def iter_open_logger_fds() -> Iterator[Any]:
    """The streams that the handlers of all loggers write to, each handler once."""
    seen: set[Any] = set()
    for known in [*logging.Logger.manager.loggerDict.values(), logging.root]:
        for handler in getattr(known, "handlers", ()):
            stream = getattr(handler, "stream", None)
            if stream is not None and handler not in seen:
                seen.add(handler)
                yield stream


def get_multiprocessing_logger() -> logging.Logger | None:
    """None: it is billiard's, and there is no billiard here."""
    return None


def reset_multiprocessing_logger() -> None:
    """Nothing to do; see `get_multiprocessing_logger`."""


def current_process() -> Any:
    """The process object of multiprocessing; None where that is not loaded: this is no child of a pool."""
    multiprocessing = sys.modules.get("multiprocessing")
    return multiprocessing and multiprocessing.current_process()


def current_process_index(base: int = 1) -> int | None:
    """The number of this pool process, from its attribute `index`; None in a process that has none."""
    index = getattr(current_process(), "index", None)
    return None if index is None else index + base
