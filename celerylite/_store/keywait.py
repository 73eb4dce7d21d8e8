"""Waiting for a key that somebody's open transaction holds: the caller waits, not who leads the writer."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from kombu.exceptions import OperationalError

from celerylite import _clock
from celerylite._store import Done

__all__ = ("KeyLocked", "KeyWait", "LockedKeys")

T = TypeVar("T")

#: A transaction of the database takes real time, whatever clock a test has put in place.
_real = _clock.Clock()
#: Seconds between two tries, at first and at most.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.01, 0.25
#: A locked key is left alone for so many times as long as it was waited for...
_REST = 10
#: ...but not for more seconds than this.
_LONGEST_REST_S = 2.0


class KeyLocked(Exception):
    """A transaction that has not ended takes, or has taken, this key.

    Not an outage: in a shared transaction only the work that wanted the key fails.
    """

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key


class LockedKeys:
    """Keys that were found locked a moment ago, so that few transactions wait for them.

    Who waits for a key does so in a transaction that others share: all in all that may be a tenth of it.
    """

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._until: dict[str, float] = {}

    def check(self, key: str) -> None:
        """Raise KeyLocked for a key that is to be left alone."""
        if self._until and self._until.get(key, 0.0) > _real.monotonic():
            raise KeyLocked(key)

    def add(self, key: str) -> None:
        now = _real.monotonic()
        others = {each: until for each, until in self._until.copy().items() if until > now and each != key}
        rest_s = min(self._wait_s * _REST * (1 + len(others)), _LONGEST_REST_S)
        self._until = {**others, key: now + rest_s}


class KeyWait:
    """Runs what takes keys until it gets them, or the time is up.

    Raises OperationalError then: as with a database that is locked, the caller may try again.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s

    def run(self, attempt: Callable[[], T]) -> T:
        """What `attempt` returns. Blocks."""
        pauses = _Pauses(self._patience_s)
        while True:
            try:
                return attempt()
            except KeyLocked as error:
                pause_s = pauses.next()
                if pause_s is None:
                    raise self._too_late(error) from error
            threading.Event().wait(pause_s)

    def run_soon(self, begin: Callable[[Done[T]], None], done: Done[T]) -> None:
        """As `run`, for what tells its outcome to a callback. Does not block."""
        pauses = _Pauses(self._patience_s)

        def over(result: T | None, error: BaseException | None) -> None:
            if not isinstance(error, KeyLocked):
                done(result, error)
                return
            pause_s = pauses.next()
            if pause_s is None:
                done(None, self._too_late(error))
                return
            timer = threading.Timer(pause_s, begin, [over])
            timer.daemon = True
            timer.start()

        begin(over)

    def _too_late(self, error: KeyLocked) -> OperationalError:
        return OperationalError(
            f"unique key {error.key!r}: expected to learn within {self._patience_s:g} s whether it is free, "
            "got an open transaction that holds it; commit or roll back the one that was given as "
            "connection=, then try again"
        )


class _Pauses:
    """Seconds to wait before the next try; None when it is too late for one."""

    def __init__(self, patience_s: float) -> None:
        self._deadline = _real.monotonic() + patience_s
        self._pause_s = _FIRST_PAUSE_S

    def next(self) -> float | None:
        pause_s, self._pause_s = self._pause_s, min(self._pause_s * 2, _LONGEST_PAUSE_S)
        return pause_s if _real.monotonic() + pause_s < self._deadline else None
