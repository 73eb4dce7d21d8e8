"""The logging of an app (`app.log`): handlers, formats and colours, set up once in a process."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from logging.handlers import WatchedFileHandler
from typing import TYPE_CHECKING, Any, TextIO

from kombu.utils.encoding import set_default_encoding_file

from celerylite import signals
from celerylite._state import get_current_task
from celerylite.exceptions import CDeprecationWarning, CPendingDeprecationWarning
from celerylite.utils.log import (
    ColorFormatter,
    LoggingProxy,
    get_logger,
    get_multiprocessing_logger,
    mlevel,
    reset_multiprocessing_logger,
)
from celerylite.utils.nodenames import node_format
from celerylite.utils.term import colored

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Logging", "TaskFormatter")

#: Whether the multiprocessing logger says more than errors.
MP_LOG = os.environ.get("MP_LOG", False)

# What a worker that hijacks the root logger takes the handlers from.
_HIJACKED = ("celery", "celery.task", "celery.redirected")

_WINDOWS = os.name == "nt"


class TaskFormatter(ColorFormatter):
    """A formatter that knows `%(task_name)s` and `%(task_id)s`: `???` outside of a task."""

    def format(self, record: logging.LogRecord) -> str:
        """Format `record` with the name and id of the task that runs in this context."""
        task = get_current_task()
        if task and task.request:
            record.__dict__.update(task_id=task.request.id, task_name=task.name)
        else:
            # Names given by the caller (`extra=`) stay.
            record.__dict__.setdefault("task_name", "???")
            record.__dict__.setdefault("task_id", "???")
        return super().format(record)


class Logging:
    """The logging set-up of an app. The first app of the process that sets logging up wins."""

    #: Whether some app has set logging up in this process.
    _setup = False

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.loglevel: int = mlevel(logging.WARNING)
        self.format: str = app.conf.worker_log_format
        self.datefmt: str | None = app.conf.worker_log_datefmt
        self.task_format: str = app.conf.worker_task_log_format
        self.task_datefmt: str | None = app.conf.worker_task_log_datefmt
        self.colorize: bool | None = app.conf.worker_log_color

    def setup(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        redirect_stdouts: bool = False,
        redirect_level: int | str = "WARNING",
        colorize: bool | None = None,
        hostname: str | None = None,
    ) -> Any:
        """Set logging up as a worker does: the handlers, `print` if wanted, and warnings as log lines.

        Gives what `setup_logging_subsystem` gives. Children find the choice in CELERY_LOG_* variables.
        """
        loglevel = mlevel(loglevel)
        handled = self.setup_logging_subsystem(loglevel, logfile, colorize=colorize, hostname=hostname)
        if redirect_stdouts and not handled:
            self.redirect_stdouts(redirect_level)
        os.environ["CELERY_LOG_LEVEL"] = str(loglevel or "")
        os.environ["CELERY_LOG_FILE"] = str(logfile or "")
        for category in (CDeprecationWarning, CPendingDeprecationWarning):
            warnings.filterwarnings("always", category=category)
        logging.captureWarnings(True)
        return handled

    def redirect_stdouts(self, loglevel: int | str | None = None, name: str = "celery.redirected") -> None:
        """Send what is printed to the logger `name`, here and, by CELERY_LOG_REDIRECT, in children."""
        self.redirect_stdouts_to_logger(get_logger(name), loglevel=loglevel)
        os.environ["CELERY_LOG_REDIRECT"] = "1"
        os.environ["CELERY_LOG_REDIRECT_LEVEL"] = str(loglevel or "")

    def setup_logging_subsystem(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        format: str | None = None,
        colorize: bool | None = None,
        hostname: str | None = None,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> list[tuple[Any, Any]] | None:
        """Give the root logger and the task logger their handlers, unless a receiver of `setup_logging` does.

        Gives the answers of those receivers: an empty list means that the handlers are ours, None that
        logging had been set up before. Raises what a receiver raises.
        """
        if self.already_setup:
            return None
        if logfile and hostname:
            logfile = node_format(logfile, hostname)
        Logging._setup = True
        loglevel = mlevel(loglevel or self.loglevel)
        format = format or self.format
        colorize = self.supports_color(colorize, logfile)
        reset_multiprocessing_logger()
        chosen = {"loglevel": loglevel, "logfile": logfile, "format": format, "colorize": colorize}
        receivers = signals.setup_logging.send(sender=None, **chosen)
        _reraise(receivers)
        if not receivers:
            self._setup_loggers(datefmt=self.datefmt if datefmt is None else datefmt, **chosen, **kwargs)
        _use_encoding_of(logging.getLogger())
        return receivers

    def _setup_loggers(
        self, *, loglevel: int, logfile: Any, format: str, colorize: bool, datefmt: str | None, **kwargs: Any
    ) -> None:
        root = logging.getLogger()
        if self.app.conf.worker_hijack_root_logger:
            root.handlers = []
            for name in _HIJACKED:
                get_logger(name).handlers = []
        self._configure_logger(root, logfile, loglevel, format, colorize, datefmt=datefmt, **kwargs)
        quiet = loglevel if MP_LOG else logging.ERROR
        pool_logger = get_multiprocessing_logger()
        self._configure_logger(pool_logger, logfile, quiet, format, colorize, datefmt=datefmt, **kwargs)
        signals.after_setup_logger.send(
            sender=None, logger=root, loglevel=loglevel, logfile=logfile, format=format, colorize=colorize
        )
        self.setup_task_loggers(loglevel, logfile, colorize=colorize)

    def _configure_logger(
        self,
        logger: logging.Logger | None,
        logfile: Any,
        loglevel: int | str | None,
        format: str,
        colorize: bool | None,
        **kwargs: Any,
    ) -> None:
        if logger is not None:
            self.setup_handlers(logger, logfile, format, colorize, **kwargs)
            if loglevel:
                logger.setLevel(loglevel)

    def setup_task_loggers(
        self,
        loglevel: int | str | None = None,
        logfile: Any = None,
        format: str | None = None,
        colorize: bool | None = None,
        propagate: bool = False,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give the logger of tasks, `celery.task`, its handler with the task format; gives that logger."""
        loglevel = mlevel(loglevel or self.loglevel)
        format = format or self.task_format
        # An empty `datefmt` is one: only None means the setting.
        datefmt = self.task_datefmt if datefmt is None else datefmt
        colorize = self.supports_color(colorize, logfile)
        logger = self.setup_handlers(
            get_logger("celery.task"),
            logfile,
            format,
            colorize,
            formatter=TaskFormatter,
            datefmt=datefmt,
            **kwargs,
        )
        logger.setLevel(loglevel)
        logger.propagate = bool(propagate)
        signals.after_setup_task_logger.send(
            sender=None, logger=logger, loglevel=loglevel, logfile=logfile, format=format, colorize=colorize
        )
        return logger

    def redirect_stdouts_to_logger(
        self,
        logger: logging.Logger,
        loglevel: int | str | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> LoggingProxy:
        """Put a file that writes to `logger` in the place of the standard outputs; gives that file."""
        proxy = LoggingProxy(logger, loglevel)
        if stdout:
            sys.stdout = proxy
        if stderr:
            sys.stderr = proxy
        return proxy

    def supports_color(self, colorize: bool | None = None, logfile: Any = None) -> bool:
        """Tell whether to use colours: not in a file, and only on a terminal."""
        colorize = self.colorize if colorize is None else colorize
        wanted = colorize or colorize is None
        return bool(wanted and not _WINDOWS and logfile is None and _isatty(sys.stderr))

    def colored(self, logfile: Any = None, enabled: bool | None = None) -> colored:
        """Give what colours text, switched off where colours are not supported."""
        return colored(enabled=self.supports_color(enabled, logfile))

    def setup_handlers(
        self,
        logger: logging.Logger,
        logfile: Any,
        format: str,
        colorize: bool | None,
        formatter: Callable[..., logging.Formatter] = ColorFormatter,
        datefmt: str | None = None,
        **kwargs: Any,
    ) -> logging.Logger:
        """Give `logger` a handler, unless it has one; gives `logger`."""
        if not self._is_configured(logger):
            handler = self._detect_handler(logfile)
            handler.setFormatter(formatter(format, datefmt=datefmt, use_color=colorize))
            logger.addHandler(handler)
        return logger

    def _detect_handler(self, logfile: Any = None) -> logging.Handler:
        """Make a handler for an open file, a path, or None, which is standard error."""
        target: Any = sys.__stderr__ if logfile is None else logfile
        if hasattr(target, "write"):
            return logging.StreamHandler(target)
        return WatchedFileHandler(target, encoding="utf-8")

    def _has_handler(self, logger: logging.Logger) -> bool:
        return any(not isinstance(handler, logging.NullHandler) for handler in logger.handlers or [])

    def _is_configured(self, logger: logging.Logger) -> bool:
        return self._has_handler(logger) and not getattr(logger, "_rudimentary_setup", False)

    def get_default_logger(self, name: str = "celery", **kwargs: Any) -> logging.Logger:
        """Give the logger above all of ours."""
        return get_logger(name)

    @property
    def already_setup(self) -> bool:
        """Whether some app has set logging up in this process; set it to False to allow it again."""
        return Logging._setup

    @already_setup.setter
    def already_setup(self, was_setup: bool) -> None:
        Logging._setup = was_setup


def _reraise(responses: list[tuple[Any, Any]]) -> None:
    # Nothing shows a log line yet, so an error must not remain one.
    for _, response in responses:
        if isinstance(response, Exception):
            Logging._setup = False
            raise response


def _use_encoding_of(logger: logging.Logger) -> None:
    stream: TextIO | None = getattr(logger.handlers[0], "stream", None) if logger.handlers else None
    if stream is not None:
        set_default_encoding_file(stream)


def _isatty(stream: Any) -> bool:
    return bool(stream is not None and hasattr(stream, "isatty") and stream.isatty())
