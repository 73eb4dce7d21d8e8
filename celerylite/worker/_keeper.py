"""A thread that does named chores when they are due or asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from kombu.exceptions import OperationalError

from celerylite import _clock
from celerylite.utils.log import get_logger

__all__ = ("Keeper",)

logger = get_logger(__name__)

#: Seconds until a chore that failed is tried again: doubling from the first to the last.
_FIRST_RETRY, _LAST_RETRY = 0.1, 5.0


@dataclass(slots=True)
class _Chore:
    name: str
    #: Does it, and tells in how many seconds it is due again; None: only when asked for.
    work: Callable[[], float | None]
    due: float | None
    failures: int = 0
    #: The log has been told of the failure.
    told: bool = False


class Keeper:
    """One thread, several chores. A chore that fails is logged, and tried again with growing pauses.

    A failure is logged when it begins and when it has passed, not at each try. Thread-safe.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._chores: dict[str, _Chore] = {}
        self._changed = threading.Condition()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def add(self, name: str, work: Callable[[], float | None], after: float | None = 0.0) -> None:
        """Do `work` in `after` seconds, and then as often as it says. None: only when asked for."""
        due = None if after is None else _clock.monotonic() + after
        with self._changed:
            self._chores[name] = _Chore(name, work, due)
            self._changed.notify()

    def ask(self, name: str, after: float = 0.0) -> None:
        """Do a chore within `after` seconds, if it is not due earlier. Cheap; unknown names are nobody's."""
        due = _clock.monotonic() + after
        with self._changed:
            chore = self._chores.get(name)
            if chore is not None and (chore.due is None or chore.due > due):
                chore.due = due
                self._changed.notify()

    def start(self) -> None:
        """Start the thread."""
        self._unsubscribe = _clock.on_moved(self._wake)
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 10.0) -> None:
        """End the thread after the chore it is at; at most `timeout` seconds."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        unsubscribe, self._unsubscribe = self._unsubscribe, lambda: None
        unsubscribe()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        while True:
            chore = self._next()
            if chore is None:
                return  # Stopped.
            self._do(chore)

    def _next(self) -> _Chore | None:
        with self._changed:
            while not self._stopping:
                now = _clock.monotonic()
                waiting = [c for c in self._chores.values() if c.due is not None]
                first = min(waiting, key=lambda c: c.due or 0.0, default=None)
                if first is not None and first.due is not None and first.due <= now:
                    first.due = None
                    return first
                left = None if first is None or first.due is None else first.due - now
                self._changed.wait(_clock.real_timeout(left))
            return None

    def _do(self, chore: _Chore) -> None:
        try:
            after = chore.work()
        except Exception as exc:
            after = min(_FIRST_RETRY * 2**chore.failures, _LAST_RETRY)
            # Of a database that is away the store tells, once for everybody who meets it.
            if not chore.told and not isinstance(exc, OperationalError):
                logger.warning("%s: %r; it is tried again until it works", chore.name, exc, exc_info=True)
                chore.told = True
            chore.failures = min(chore.failures + 1, 16)
        else:
            if chore.told:
                logger.warning("%s: works again", chore.name)
            chore.failures, chore.told = 0, False
        if after is not None:
            self.ask(chore.name, after)
