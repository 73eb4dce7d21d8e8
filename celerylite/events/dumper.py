"""Events as lines of text, one for each, as they come."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

from kombu.exceptions import OperationalError

from celerylite._state import app_or_default
from celerylite.utils.functional import LRUCache

__all__ = ("Dumper", "evdump")

#: What is known of tasks from their first event: later ones do not repeat it.
TASK_NAMES: Any = LRUCache(limit=0xFFF)

HUMAN_TYPES = {
    "worker-offline": "shutdown",
    "worker-online": "started",
    "worker-heartbeat": "heartbeat",
}


def humanize_type(type: str) -> str:
    """A type in words."""
    return HUMAN_TYPES.get(type.lower(), type.lower().replace("-", " "))


class Dumper:
    """Writes events to a file, by default the terminal."""

    def __init__(self, out: Any = None) -> None:
        self.out = sys.stdout if out is None else out

    def say(self, msg: str) -> None:
        """Write a line, so that who reads a pipe sees it at once."""
        print(msg, file=self.out)
        if hasattr(self.out, "flush"):
            self.out.flush()

    def on_event(self, ev: dict[str, Any]) -> None:
        """Write an event."""
        ev = dict(ev)
        when = datetime.fromtimestamp(ev.pop("timestamp"), UTC)
        type = ev.pop("type").lower()
        hostname = ev.pop("hostname")
        if type.startswith("task-"):
            self.format_task_event(hostname, when, type, self._describe(type, ev), ev)
            return
        fields = _fields(ev)
        self.say(f"{hostname} [{when}] {humanize_type(type)}{':' if fields else ''} {fields}")

    def _describe(self, type: str, ev: dict[str, Any]) -> str:
        uuid = ev.pop("uuid")
        if type not in ("task-received", "task-sent"):
            # Of a task that nobody received here its id is all that is known, unless the event has a name.
            name = ev.pop("name", "")
            return str(TASK_NAMES.get(uuid) or f"{name}({uuid})")
        name, args, kwargs = ev.pop("name"), ev.pop("args"), ev.pop("kwargs")
        task = TASK_NAMES[uuid] = f"{name}({uuid}) args={args} kwargs={kwargs}"
        return task

    def format_task_event(
        self, hostname: str, timestamp: datetime, type: str, task: str, event: dict[str, Any]
    ) -> None:
        """Write an event about a task."""
        fields = _fields(event)
        self.say(f"{hostname} [{timestamp}] {humanize_type(type)}{':' if fields else ''} {task} {fields}")


def _fields(event: dict[str, Any]) -> str:
    return ", ".join(f"{name}={event[name]}" for name in sorted(event))


def evdump(app: Any = None, out: Any = None) -> None:
    """Write every event until it is interrupted."""
    app = app_or_default(app)
    dumper = Dumper(out=out)
    dumper.say("-> evdump: starting capture...")
    while True:
        try:
            app.events.Receiver(handlers={"*": dumper.on_event}).capture()
        except (KeyboardInterrupt, SystemExit):
            return
        except OperationalError:
            dumper.say("-> Connection lost, attempting reconnect")
