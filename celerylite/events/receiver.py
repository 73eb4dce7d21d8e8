"""What captures events: those of this process at once, those of others through the database."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from queue import Empty, SimpleQueue
from typing import Any

from kombu import Queue
from kombu.connection import maybe_channel
from kombu.utils.json import dumps, loads

from celerylite import _clock
from celerylite._state import app_or_default
from celerylite.events.event import get_exchange
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils import uuid
from celerylite.utils.time import adjust_timestamp
from celerylite.worker._mailbox import EVENTS_TOPIC, RECEIVERS_TOPIC

__all__ = ("EventReceiver",)

#: Clients have no clock that is kept in step: their events come just before ours.
CLIENT_CLOCK_SKEW = -1
#: Seconds for which senders believe that a receiver is there.
_PRESENT = 10.0
#: Seconds after which a receiver says so again.
_SAY_AGAIN = 3.0
#: Seconds between looks at `should_stop`.
_LOOK = 0.5

#: People capture in real time, whatever clock a test has put in place.
_real = _clock.Clock()

Handler = Callable[[dict[str, Any]], Any]


class EventReceiver:
    """Calls a handler for each event.

    `handlers` maps types to functions; ``"*"`` gets what has no handler of its own. `channel` and the
    options of the queue are kept for who reads them.
    """

    app: Any = None
    #: Set it to end a capture.
    should_stop = False

    def __init__(
        self,
        channel: Any = None,
        handlers: Mapping[str, Handler] | None = None,
        routing_key: str = "#",
        node_id: str | None = None,
        app: Any = None,
        queue_prefix: str | None = None,
        accept: Any = None,
        queue_ttl: float | None = None,
        queue_expires: float | None = None,
        queue_exclusive: bool | None = None,
        queue_durable: bool | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        conf = self.app.conf
        self.channel = maybe_channel(channel)
        self.handlers: Mapping[str, Handler] = {} if handlers is None else handlers
        self.routing_key = routing_key
        self.node_id = node_id or uuid()
        self.queue_prefix = queue_prefix or conf.event_queue_prefix
        self.exchange = get_exchange(self.connection, name=conf.event_exchange)
        exclusive = conf.event_queue_exclusive if queue_exclusive is None else queue_exclusive
        durable = conf.event_queue_durable if queue_durable is None else queue_durable
        if exclusive and durable:
            # As Celery: the sentence users match.
            raise ImproperlyConfigured("Queue cannot be both exclusive and durable, choose one or the other.")
        self.queue = Queue(
            f"{self.queue_prefix}.{self.node_id}",
            exchange=self.exchange,
            routing_key=routing_key,
            auto_delete=not durable,
            durable=durable,
            exclusive=exclusive,
            message_ttl=conf.event_queue_ttl if queue_ttl is None else queue_ttl,
            expires=conf.event_queue_expires if queue_expires is None else queue_expires,
        )
        self.clock = self.app.clock
        self.adjust_clock, self.forward_clock = self.clock.adjust, self.clock.forward
        self.accept = {conf.event_serializer, "json"} if accept is None else accept

    @property
    def connection(self) -> Any:
        """The connection of the channel, where one was given."""
        return self.channel.connection.client if self.channel else None

    def process(self, type: str, event: dict[str, Any]) -> None:
        """Call the handler of an event."""
        handler = self.handlers.get(type) or self.handlers.get("*")
        if handler:
            handler(event)

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:
        """The consumers of a receiver that takes its events from a broker."""
        return [Consumer(queues=[self.queue], callbacks=[self._receive], no_ack=True, accept=self.accept)]

    def on_consume_ready(
        self, connection: Any, channel: Any, consumers: Any, wakeup: bool = True, **kwargs: Any
    ) -> None:
        """Called when the capture begins; asks every worker to show itself."""
        if wakeup:
            self.wakeup_workers(channel=channel)

    def wakeup_workers(self, channel: Any = None) -> None:
        """Ask every worker for a heartbeat."""
        self.app.control.broadcast("heartbeat", connection=self.connection, channel=channel)

    # -- capturing -----------------------------------------------------------------------------------

    def capture(self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True) -> None:
        """Handle events until `should_stop` is set. Blocks.

        Raises TimeoutError (socket.timeout) when none came for `timeout` seconds.
        """
        for _ in self.consume(limit=limit, timeout=timeout, wakeup=wakeup):
            pass

    def itercapture(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[None]:
        """As `capture`, step by step."""
        return self.consume(limit=limit, timeout=timeout, wakeup=wakeup)

    def consume(
        self, limit: int | None = None, timeout: float | None = None, wakeup: bool = True
    ) -> Iterator[None]:
        """Handle what comes, one event at each step."""
        with _Feed(self.app) as feed:
            self.on_consume_ready(self.connection, self.channel, [], wakeup=wakeup)
            for _ in range(limit) if limit else count():
                event = self._next(feed, timeout)
                if event is None:
                    return
                self._receive(event, None)
                yield

    def _next(self, feed: _Feed, timeout: float | None) -> dict[str, Any] | None:
        end = None if timeout is None else _real.monotonic() + timeout
        while not self.should_stop:
            left = _LOOK if end is None else min(_LOOK, end - _real.monotonic())
            event = feed.get(max(0.0, left))
            if event is not None:
                return event
            if end is not None and _real.monotonic() >= end:
                raise socket.timeout("timed out")  # noqa: UP041 - the name that users catch
        return None

    def event_from_message(
        self,
        body: dict[str, Any],
        localize: bool = True,
        now: Callable[[], float] = _clock.time,
        adjust_timestamp: Callable[..., float] = adjust_timestamp,
    ) -> tuple[str, dict[str, Any]]:
        """Type and event of what was received: its clock in step with ours, its time in our zone."""
        type = body["type"]
        if type == "task-sent":
            body["clock"] = (self.clock.value or 1) + CLIENT_CLOCK_SKEW
            self.adjust_clock(body["clock"])
        elif "clock" in body:
            self.adjust_clock(body["clock"])
        else:
            body["clock"] = self.forward_clock()
        if localize and "utcoffset" in body and "timestamp" in body:
            body["timestamp"] = adjust_timestamp(body["timestamp"], body["utcoffset"])
        body["local_received"] = now()
        return type, body

    def _receive(self, body: Any, message: Any) -> None:
        for event in body if isinstance(body, list) else [body]:
            self.process(*self.event_from_message(event))


class _Feed:
    """The events of all processes, from the moment the block begins. One reader."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._read: set[int] = set()
        self._said_at = float("-inf")
        self._end: list[Callable[[], Any]] = []

    def __enter__(self) -> _Feed:
        store = self._app.store
        self._read = {letter.row for letter in store.letters({EVENTS_TOPIC})}
        self._end = [
            self._app.events.listen(lambda event: self._queue.put(dict(event))),
            store.on_letters(lambda: self._queue.put(None)),
        ]
        self._say()
        return self

    def __exit__(self, *exc_info: Any) -> None:
        for end in self._end:
            end()

    def _say(self) -> None:
        """Let senders know that somebody wants their events."""
        if _real.monotonic() - self._said_at < _SAY_AGAIN:
            return  # They know.
        self._said_at = _real.monotonic()
        until = _clock.time() + _PRESENT
        payload = dumps({"until": until, "origin": self._app.events.origin})
        self._app.store.post(RECEIVERS_TOPIC, payload, until=until)

    def get(self, timeout: float) -> dict[str, Any] | None:
        """The next event; None when none came in `timeout` seconds (or a bit earlier)."""
        self._say()
        try:
            event = self._queue.get(timeout=timeout)
        except Empty:
            return None
        if event is None:
            self._read_letters()
        return event

    def _read_letters(self) -> None:
        letters = self._app.store.letters({EVENTS_TOPIC})
        for letter in letters:
            if letter.row not in self._read:
                said = loads(letter.payload)
                if said["origin"] != self._app.events.origin:
                    for event in said["events"]:
                        self._queue.put(event)
        self._read = {letter.row for letter in letters}
