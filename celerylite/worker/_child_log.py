"""The log of child processes: written by the parent, so that one configuration and one file are enough."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

from celerylite import _state

__all__ = ("forward", "levels", "write")

_Send = Callable[[dict[str, Any]], object]


def levels() -> dict[str, int]:
    """The levels that were set on loggers of this process, by name; "" is the root."""
    known = {
        name: logger.level
        for name, logger in list(logging.root.manager.loggerDict.items())
        if isinstance(logger, logging.Logger) and logger.level != logging.NOTSET
    }
    return {**known, "": logging.root.level}


def forward(send: _Send, levels: dict[str, int]) -> None:
    """Send every log record of this process, instead of handling it here."""
    for logger in list(logging.root.manager.loggerDict.values()):
        if isinstance(logger, logging.Logger):
            # Its handlers are in the parent as well, and will get the record there.
            logger.handlers, logger.propagate, logger.disabled = [], True, False
    logging.root.handlers = [_Forwarder(send)]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)


def write(fields: dict[str, Any]) -> None:
    """Handle a record that a child has sent."""
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


class _Forwarder(logging.Handler):
    """Sends records; what is in them is made fit for another process."""

    def __init__(self, send: _Send) -> None:
        super().__init__()
        self._send = send
        self._formatter = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields = self._fields(record)
            try:
                self._send(fields)
            except Exception:
                # Something in `extra` that does not pickle: its representation does.
                self._send({key: _plain(value) for key, value in fields.items()})
        except Exception:
            self.handleError(record)

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        record = copy.copy(record)
        record.msg, record.args = record.getMessage(), None
        if record.exc_info and not record.exc_text:
            record.exc_text = self._formatter.formatException(record.exc_info)
        record.exc_info = None
        task = _state.get_current_task()
        if task is not None and task.request:
            # The formatter of the parent cannot know which task runs here.
            record.task_id, record.task_name = task.request.id, task.name
        return dict(vars(record))


def _plain(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
