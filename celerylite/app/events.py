"""``app.events``: monitoring events, to listeners in this process at once and to others by the database."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.utils.objects import cached_property

from celerylite import _clock
from celerylite.utils import uuid
from celerylite.utils.log import get_logger
from celerylite.worker._keeper import Keeper
from celerylite.worker._mailbox import EVENTS_TOPIC, RECEIVERS_TOPIC, as_json, present_until

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Events",)

logger = get_logger(__name__)

Listener = Callable[[dict[str, Any]], None]

#: Seconds for which events are collected before they are written: one letter for many.
_COLLECT = 0.05
#: Events that are kept while the database is away or slow; the oldest go first.
_MOST_KEPT = 10_000


class Events:
    """``app.events``. Thread-safe."""

    receiver_cls: Any = "celerylite.events.receiver:EventReceiver"
    dispatcher_cls: Any = "celerylite.events.dispatcher:EventDispatcher"
    state_cls: Any = "celerylite.events.state:State"

    def __init__(self, app: Celery | None = None) -> None:
        self.app: Any = app
        self._listeners: list[Listener] = []
        self._outlet: _Outlet | None = None
        self._present_until = 0.0
        #: Tells the letters of this process from those of others.
        self.origin = uuid()

    @cached_property
    def Receiver(self) -> Any:
        """The class that captures events, for this app."""
        return self.app.subclass_with_self(self.receiver_cls, reverse="events.Receiver")

    @cached_property
    def Dispatcher(self) -> Any:
        """The class that sends events, for this app."""
        return self.app.subclass_with_self(self.dispatcher_cls, reverse="events.Dispatcher")

    @cached_property
    def State(self) -> Any:
        """The class that follows workers and tasks by their events, for this app."""
        return self.app.subclass_with_self(self.state_cls, reverse="events.State")

    @contextmanager
    def default_dispatcher(
        self, hostname: str | None = None, enabled: bool = True, buffer_while_offline: bool = False
    ) -> Iterator[Any]:
        """What sends events in the name of `hostname`."""
        with self.Dispatcher(
            hostname=hostname, enabled=enabled, buffer_while_offline=buffer_while_offline
        ) as dispatcher:
            yield dispatcher

    # -- sending -------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every event of this process from now on; returns the function that ends it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def has_audience(self) -> bool:
        """Whether somebody, here or elsewhere, wants events now. Cheap."""
        return bool(self._listeners) or _clock.time() < self._present_until

    def receivers_until(self, moment: float) -> None:
        """Another process captures events until then (epoch seconds), at least."""
        self._present_until = max(self._present_until, moment)

    def announce(self, type: str, fields: dict[str, Any]) -> None:
        """Tell of an event of a client, such as ``task-sent``."""
        self._outlet_of_process().watch()
        if self.has_audience():
            with self.default_dispatcher() as dispatcher:
                dispatcher.send(type, **fields)

    def publish(self, event: dict[str, Any]) -> None:
        """Hand an event to the listeners, and to the database if another process captures.

        A listener that fails is logged and does not keep the event from the others.
        """
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:
                logger.exception("listener %r raised at event %s", listener, event.get("type"))
        if _clock.time() < self._present_until:
            self._outlet_of_process().put(event)

    def _outlet_of_process(self) -> _Outlet:
        outlet = self._outlet
        if outlet is None or outlet.pid != os.getpid():
            # After a fork its thread is the parent's.
            outlet = self._outlet = _Outlet(self)
        return outlet

    def flush(self) -> None:
        """Write what is collected, now. May block."""
        if self._outlet is not None and self._outlet.pid == os.getpid():
            self._outlet.write()

    def close(self) -> None:
        """Write what is collected and end the thread that does; it begins again when it is needed."""
        outlet, self._outlet = self._outlet, None
        if outlet is not None and outlet.pid == os.getpid():
            outlet.close()


class _Outlet:
    """Writes events to the database, many at a time, in a thread that begins with the first."""

    def __init__(self, events: Events) -> None:
        self.pid = os.getpid()
        self._events = events
        self._mutex = threading.Lock()
        self._kept: deque[dict[str, Any]] = deque(maxlen=_MOST_KEPT)
        self._keeper: Keeper | None = None
        self._end: Callable[[], None] = lambda: None
        self._watches = False

    def watch(self) -> None:
        """Learn whether somebody captures, where no runtime reads the mailbox anyway."""
        if self._watches or self._events.app._runtime is not None:
            return  # It is known.
        self._watches = True
        keeper = self._started()
        keeper.add("receivers", self._look_for_receivers, after=None)
        self._end = self._events.app.store.on_letters(lambda: keeper.ask("receivers"))
        self._look_for_receivers()

    def _look_for_receivers(self) -> None:
        letters = self._events.app.store.letters({RECEIVERS_TOPIC})
        self._events.receivers_until(present_until(letters, self._events.origin))

    def put(self, event: dict[str, Any]) -> None:
        """Write the event soon."""
        self._kept.append(event)
        self._started().ask("write", _COLLECT)

    def _started(self) -> Keeper:
        with self._mutex:
            if self._keeper is None:
                self._keeper = Keeper("celerylite-events")
                self._keeper.add("write", self.write, after=None)
                self._keeper.start()
            return self._keeper

    def write(self) -> None:
        """Write what is kept."""
        events: list[dict[str, Any]] = []
        while self._kept:
            events.append(self._kept.popleft())
        if events:
            app = self._events.app
            payload = as_json({"origin": self._events.origin, "events": events})
            app.store.post(
                EVENTS_TOPIC, payload, until=_clock.time() + float(app.conf.event_queue_ttl or 5.0)
            )

    def close(self) -> None:
        self._end()
        keeper = self._keeper
        if keeper is not None:
            keeper.stop()
        self.write()
