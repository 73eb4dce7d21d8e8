"""What sends events in the name of one node."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Collection
from typing import Any, ClassVar

from celerylite._state import app_or_default
from celerylite.events.event import Event, get_exchange, group_from
from celerylite.utils.nodenames import anon_nodename
from celerylite.utils.time import utcoffset

__all__ = ("EventDispatcher",)

MakeEvent = Callable[..., dict[str, Any]]


class _Bus:
    """A producer that hands events to who listens in this process, and to the database for others."""

    def __init__(self, events: Any, channel: Any) -> None:
        self._events = events
        self.channel = channel

    def publish(self, event: Any, **options: Any) -> None:
        """Tell of an event, or of each of a list."""
        for one in event if isinstance(event, list) else [event]:
            self._events.publish(one)


class EventDispatcher:
    """Sends events of some groups, or of all. Thread-safe.

    `connection`, `channel`, `serializer` and `delivery_mode` are kept for who reads them: events go to
    ``app.events``. Events of a group in `buffer_group` are collected and sent `buffer_limit` at a time.
    """

    DISABLED_TRANSPORTS: ClassVar[set[str]] = {"sql"}

    app: Any = None
    #: Called when sending is switched on.
    on_enabled: Any = None
    #: Called when it is switched off.
    on_disabled: Any = None

    def __init__(
        self,
        connection: Any = None,
        hostname: str | None = None,
        enabled: bool = True,
        channel: Any = None,
        buffer_while_offline: bool = True,
        app: Any = None,
        serializer: str | None = None,
        groups: Collection[str] | None = None,
        delivery_mode: int = 1,
        buffer_group: Collection[str] | None = None,
        buffer_limit: int = 24,
        on_send_buffered: Callable[[], None] | None = None,
    ) -> None:
        self.app = app_or_default(app or self.app)
        self._connection = connection or (channel.connection.client if channel else None)
        self.channel = channel
        self.hostname = hostname or anon_nodename()
        self.buffer_while_offline = buffer_while_offline
        self.buffer_group = buffer_group or frozenset()
        self.buffer_limit = buffer_limit
        self.on_send_buffered = on_send_buffered
        self.serializer = serializer or self.app.conf.event_serializer
        self.delivery_mode = delivery_mode
        self.groups = set(groups or ())
        self.on_enabled, self.on_disabled = set(), set()
        self.mutex = threading.Lock()
        self.producer: Any = None
        self.headers = {"hostname": self.hostname}
        self.pid = os.getpid()
        self.clock = self.app.clock
        self.tzoffset = [-time.timezone, -time.altzone]
        self._closed = False
        self._group_buffer: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self._outbound_buffer: deque[tuple[Any, str]] = deque()
        self.exchange = get_exchange(self._connection, name=self.app.conf.event_exchange)
        self.enabled = enabled and not self._is_of_no_use(self._connection)
        if self.enabled:
            self.enable()

    def _is_of_no_use(self, connection: Any) -> bool:
        return connection is not None and connection.transport.driver_type in self.DISABLED_TRANSPORTS

    @property
    def connection(self) -> Any:
        """The connection that was given, or one for the app's broker; nothing is sent over it."""
        if self._connection is None:
            self._connection = self.app.connection_for_write()
        return self._connection

    def __enter__(self) -> EventDispatcher:
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.close()

    @property
    def publisher(self) -> Any:
        """The producer, under its old name."""
        return self.producer

    @publisher.setter
    def publisher(self, producer: Any) -> None:
        self.producer = producer

    def enable(self) -> None:
        """Send from now on."""
        with self.mutex:
            self.producer = _Bus(self.app.events, self.channel or self._connection)
            self._closed, self.enabled = False, True
        for callback in self.on_enabled:
            callback()

    def disable(self) -> None:
        """Send nothing from now on."""
        if not self.enabled:
            return  # It does not.
        self.enabled = False
        self.close()
        for callback in self.on_disabled:
            callback()

    def publish(
        self,
        type: str,
        fields: dict[str, Any],
        producer: Any,
        blind: bool = False,
        Event: MakeEvent = Event,
        **kwargs: Any,
    ) -> None:
        """Send an event by another producer; also when this one is closed. `blind` leaves the clock out."""
        event = self._event(type, fields, blind, Event)
        with self.mutex:
            self._publish(event, producer, _routing_key(type), **kwargs)

    def send(
        self,
        type: str,
        blind: bool = False,
        utcoffset: Callable[[], Any] = utcoffset,
        retry: bool = False,
        retry_policy: Any = None,
        Event: MakeEvent = Event,
        **fields: Any,
    ) -> None:
        """Send an event, if its group is sent at all. `retry` and `retry_policy` have no effect."""
        group = group_from(type)
        if not self.enabled or (self.groups and group not in self.groups):
            return  # Nobody wants it.
        event = self._event(type, fields, blind, Event, utcoffset)
        if group in self.buffer_group:
            self._keep(group, event)
            return
        with self.mutex:
            if not self._closed:
                self._publish(event, self.producer, _routing_key(type), retry, retry_policy)

    def _event(
        self,
        type: str,
        fields: dict[str, Any],
        blind: bool,
        make: MakeEvent,
        offset: Callable[[], Any] = utcoffset,
    ) -> dict[str, Any]:
        clock = None if blind else self.clock.forward()
        return make(type, hostname=self.hostname, utcoffset=offset(), pid=self.pid, clock=clock, **fields)

    def _keep(self, group: str, event: dict[str, Any]) -> None:
        kept = self._group_buffer[group]
        kept.append(event)
        if len(kept) >= self.buffer_limit:
            self.flush()
        elif self.on_send_buffered:
            self.on_send_buffered()

    def _publish(
        self, event: Any, producer: Any, routing_key: str, retry: bool = False, retry_policy: Any = None
    ) -> None:
        if producer is None:
            return  # Closed meanwhile.
        try:
            producer.publish(
                event,
                routing_key=routing_key,
                exchange=self.exchange.name,
                retry=retry,
                retry_policy=retry_policy,
                declare=[self.exchange],
                serializer=self.serializer,
                headers=self.headers,
                delivery_mode=self.delivery_mode,
            )
        except Exception:
            if not self.buffer_while_offline:
                raise
            self._outbound_buffer.append((event, routing_key))

    def flush(self, errors: bool = True, groups: bool = True) -> None:
        """Send what was kept: what could not be sent before (`errors`), and what is collected (`groups`)."""
        with self.mutex:
            if self._closed:
                return  # It stays kept until this is enabled again.
            if errors:
                kept = list(self._outbound_buffer)
                self._outbound_buffer.clear()
                for event, routing_key in kept:
                    self._publish(event, self.producer, routing_key)
            if groups:
                self._flush_groups()

    def _flush_groups(self) -> None:
        for group, events in self._group_buffer.items():
            # A copy: others add to the list while it is sent.
            batch = list(events)
            if batch:
                self._publish(batch, self.producer, f"{group}.multi")
                del events[: len(batch)]

    def extend_buffer(self, other: EventDispatcher) -> None:
        """Take over what another one could not send."""
        self._outbound_buffer.extend(other._outbound_buffer)

    def close(self) -> None:
        """Send nothing any more, until it is enabled again."""
        with self.mutex:
            self._closed = True
            self.producer = None


def _routing_key(type: str) -> str:
    return type.replace("-", ".")
