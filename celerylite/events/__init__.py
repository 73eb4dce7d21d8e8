"""Monitoring events: what workers tell of themselves and their tasks."""

from __future__ import annotations

from celerylite.events.dispatcher import EventDispatcher
from celerylite.events.event import Event, event_exchange, get_exchange, group_from
from celerylite.events.receiver import EventReceiver

__all__ = ("Event", "EventDispatcher", "EventReceiver", "event_exchange", "get_exchange", "group_from")
