"""An event as a dictionary, and the exchange that Celery's events have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from kombu import Exchange

from celerylite import _clock

__all__ = ("Event", "event_exchange", "get_exchange", "group_from")

EVENT_EXCHANGE_NAME = "celeryev"
#: Events pass through the database; the exchange is for code that names it.
event_exchange = Exchange(EVENT_EXCHANGE_NAME, type="topic")


def Event(
    type: str,
    _fields: Mapping[str, Any] | None = None,
    __dict__: Callable[..., dict[str, Any]] = dict,
    __now__: Callable[[], float] = _clock.time,
    **fields: Any,
) -> dict[str, Any]:
    """The dictionary of an event: its type, the fields, and the current time where they have no timestamp."""
    event = __dict__(_fields, **fields) if _fields else fields
    event.setdefault("timestamp", __now__())
    event["type"] = type
    return event


def group_from(type: str) -> str:
    """The part of an event's type before the first dash: ``task-sent`` is of the group ``task``."""
    return type.partition("-")[0]


def get_exchange(conn: Any, name: str = EVENT_EXCHANGE_NAME) -> Exchange:
    """The exchange of events for a connection of that kind."""
    exchange = copy(event_exchange)
    if conn is not None and conn.transport.driver_type in ("redis", "gcpubsub"):
        exchange.type = "fanout"
    exchange.name = name
    return exchange
