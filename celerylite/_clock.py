"""The one place that reads the time, so that tests can put a clock of their own here."""

from __future__ import annotations

import threading
import time as _time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

__all__ = ("Clock", "ManualClock", "monotonic", "on_moved", "real_timeout", "time", "use", "utcnow")


class Clock:
    """The machine's clock. Thread-safe."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return _time.time()

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back; only differences mean something."""
        return _time.monotonic()

    def real_timeout(self, seconds: float | None) -> float | None:
        """How long to really wait for `seconds` of this clock; None waits for an event alone."""
        return seconds

    def on_moved(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` whenever the clock is moved by hand; returns the function that ends it."""
        return lambda: None


class ManualClock(Clock):
    """A clock that stands still until a test moves it. Thread-safe."""

    def __init__(self, start: float | datetime = 1_700_000_000.0) -> None:
        self._now = start.timestamp() if isinstance(start, datetime) else float(start)
        self._mutex = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def time(self) -> float:
        return self._now

    def monotonic(self) -> float:
        return self._now

    def real_timeout(self, seconds: float | None) -> float | None:
        # Time does not pass by itself here: whoever waits is woken by `advance`.
        return None

    def on_moved(self, callback: Callable[[], None]) -> Callable[[], None]:
        with self._mutex:
            self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def advance(self, seconds: float) -> None:
        """Move the clock by `seconds` (negative: a clock that was set back) and wake who waits for it."""
        with self._mutex:
            self._now += seconds
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback()


_current: Clock = Clock()


def time() -> float:
    """Seconds since the epoch."""
    return _current.time()


def monotonic() -> float:
    """Seconds on a clock that never goes back."""
    return _current.monotonic()


def utcnow() -> datetime:
    """The current moment, aware, in UTC."""
    return datetime.fromtimestamp(_current.time(), UTC)


def real_timeout(seconds: float | None) -> float | None:
    """How long to really wait for `seconds`; see `Clock.real_timeout`."""
    return _current.real_timeout(seconds)


def on_moved(callback: Callable[[], None]) -> Callable[[], None]:
    """Call `callback` whenever the clock is moved by hand; returns the function that ends it."""
    return _current.on_moved(callback)


@contextmanager
def use(clock: Clock) -> Iterator[Clock]:
    """Read the time from `clock` inside the block, in every thread of the process."""
    global _current
    previous, _current = _current, clock
    try:
        yield clock
    finally:
        _current = previous
