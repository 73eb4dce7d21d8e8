"""Readiness: callbacks that run once something is known, at once if it already is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

__all__ = ("Ready", "Barrier")


class Ready:
    """Callable with the value that became known; hands it to everything given to `then`.

    Not thread-safe: it is fired by whoever fetches the result.
    """

    def __init__(self, callback: Callable[..., Any] | None = None, on_error: Any = None) -> None:
        self.callback = callback
        self.on_error = on_error
        self.ready = False
        self.failed = False
        self.reason: BaseException | None = None
        self._value: tuple[Any, ...] = ()
        self._waiting: list[Any] = []

    def then(self, callback: Any, on_error: Any = None) -> Any:
        """Call `callback` with the value, or `on_error` with the exception; returns what can be chained."""
        following = callback if hasattr(callback, "then") else Ready(callback, on_error)
        if self.failed:
            following.throw(self.reason)
        elif self.ready:
            following(*self._value)
        else:
            self._waiting.append(following)
        return following

    def __call__(self, *args: Any) -> Any:
        self._value = args if self.callback is None else (self.callback(*args),)
        self.ready = True
        for following in self._take_waiting():
            following(*self._value)
        return self._value[0] if self._value else None

    def throw(self, exc: BaseException | None = None, tb: Any = None) -> None:
        """Call the error callbacks. Without any, those who wait learn nothing."""
        self.failed, self.reason = True, exc
        if self.on_error is not None:
            self.on_error(exc)
        for following in self._take_waiting():
            following.throw(exc)

    def _take_waiting(self) -> list[Any]:
        taken, self._waiting = self._waiting, []
        return taken


class Barrier:
    """Fires when each of several results has fired."""

    def __init__(self, results: Iterable[Any] | None = None) -> None:
        self.p = Ready()
        self.size = 0
        self.finalized = False
        self._value = 0
        for result in results or ():
            self.add(result)
        self.finalized = bool(self.size)
        self._fire_if_full()

    @property
    def ready(self) -> bool:
        return self.p.ready

    def add(self, result: Any) -> None:
        """Wait for `result` too. An error once the barrier has fired."""
        if self.p.ready:
            raise ValueError("Cannot add promise to full barrier")
        self.size += 1
        result.then(self)

    def finalize(self) -> None:
        """Nothing will be added any more: fire if all have fired."""
        self.finalized = True
        self._fire_if_full()

    def then(self, callback: Any, on_error: Any = None) -> Any:
        """Call `callback`, without arguments, when all have fired."""
        return self.p.then(callback, on_error)

    def __call__(self, *args: Any) -> None:
        self._value += 1
        self._fire_if_full()

    def throw(self, exc: BaseException | None = None, tb: Any = None) -> None:
        """Pass the failure of one result on."""
        self.p.throw(exc)

    def _fire_if_full(self) -> None:
        if self.finalized and not self.p.ready and self._value >= self.size:
            self.p()
