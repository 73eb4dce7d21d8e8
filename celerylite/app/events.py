"""Monitoring events, told to whoever listens in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celerylite import _clock
from celerylite.utils.log import get_logger
from celerylite.utils.nodenames import anon_nodename

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Events",)

logger = get_logger(__name__)

Listener = Callable[[dict[str, Any]], None]


class _Dispatcher:
    """Sends events in the name of one node."""

    def __init__(self, events: Events, hostname: str | None) -> None:
        self._events = events
        self.hostname = hostname or anon_nodename()

    def send(self, type: str, retry: Any = None, retry_policy: Any = None, **fields: Any) -> None:
        """Tell of an event; `retry` and `retry_policy` have no effect."""
        self._events.announce(type, {"hostname": self.hostname, **fields})


class Events:
    """``app.events``."""

    def __init__(self, app: Celery | None = None) -> None:
        self.app: Any = app
        self._listeners: list[Listener] = []

    @contextmanager
    def default_dispatcher(self, hostname: str | None = None, **kwargs: Any) -> Iterator[_Dispatcher]:
        """What sends events in the name of `hostname`."""
        yield _Dispatcher(self, hostname)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event of this process from now on; returns the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def announce(self, type: str, fields: dict[str, Any]) -> None:
        """Tell the listeners. One that fails is logged and does not keep the event from the others."""
        if not self._listeners:
            return  # Costs nothing when nobody listens.
        event = {"type": type, "timestamp": _clock.time(), "pid": os.getpid(), **fields}
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("listener %r raised at event %s", listener, type)
