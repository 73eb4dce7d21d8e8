"""What the log says while the database is in trouble, as something to wait for."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import pytest

from compat_tests.ours.runtime_fixtures import DEADLINE_S

__all__ = ("Told", "told")


class Told(logging.Handler):
    """Collects the warnings and errors of the log, and lets a test wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._changed = threading.Condition()

    def emit(self, record: logging.LogRecord) -> None:
        with self._changed:
            if record.levelno >= logging.WARNING:
                self.lines.append(record.getMessage())
            self._changed.notify_all()

    def until(self, words: str) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: any(words in line for line in self.lines), DEADLINE_S)
        assert found, f"expected the log to say {words!r}, got {self.lines!r}"


@pytest.fixture
def told() -> Iterator[Told]:
    handler = Told()
    logger = logging.getLogger("celery")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
