"""What a runtime, the template of its child processes and the children say to each other."""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from typing import Any, NamedTuple

from celerylite._store import Delivery

__all__ = (
    "Answered",
    "Call",
    "ChildSettings",
    "Defect",
    "Done",
    "Exited",
    "Failed",
    "Fork",
    "Interrupt",
    "Leave",
    "Link",
    "Loaded",
    "LogLine",
    "Outcome",
    "Signal",
    "Up",
)


class ChildSettings(NamedTuple):
    """What a child is told when it is made."""

    hostname: str
    keeps_history: bool
    #: Calls after which it leaves; None: never.
    max_tasks: int | None
    #: KiB of resident memory after which it leaves; None: never.
    max_memory: int | None
    #: Levels of the parent's loggers, by name; "" is the root.
    log_levels: dict[str, int]


# To the template.


class Fork(NamedTuple):
    """Make a child; the handle of its connection follows."""

    number: int
    settings: ChildSettings


class Signal(NamedTuple):
    """Send a signal to a child, if it is alive."""

    number: int
    signum: int


# From the template.


class Loaded(NamedTuple):
    """The app is there; children may be asked for. Names of the tasks it knows."""

    tasks: frozenset[str]


class Failed(NamedTuple):
    """The app could not be loaded."""

    reason: str


class Exited(NamedTuple):
    """A child is gone: its exit code, or minus the signal that killed it."""

    number: int
    status: int


class Leave(NamedTuple):
    """There will be no more children, or calls. Also to a child."""


# To a child.


class Call(NamedTuple):
    """Run this delivery. `module` defines its task."""

    number: int
    delivery: Delivery
    module: str | None


class Interrupt(NamedTuple):
    """Do what the signal asks for, if that call is still running. The signal itself comes right after."""

    number: int
    signum: int


class Answered(NamedTuple):
    """The outcome was made durable, or refused: another one had been decided before."""

    accepted: bool


# From a child.


class Up(NamedTuple):
    """It takes calls."""

    pid: int


class LogLine(NamedTuple):
    """A log record, as its fields."""

    fields: dict[str, Any]


class Outcome(NamedTuple):
    """What to settle, as the arguments of `_settlement.commit`; the child waits for `Answered`."""

    fields: dict[str, Any]
    #: Type and fields of the event that tells monitors of it.
    event: tuple[str, dict[str, Any]] | None = None


class Defect(NamedTuple):
    """A step of ours has failed, not the task; `Done` follows."""

    exception: BaseException


class Done(NamedTuple):
    """Handlers and signals of the call have run. `leaving` says why there will be no next one."""

    leaving: str | None


class Link:
    """One end of a connection. Any thread may send; one thread at a time receives."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._mutex = threading.Lock()

    def send(self, message: Any, handle: int | None = None) -> bool:
        """Send `message`, and with it an open file; False when nobody is there any more."""
        with self._mutex:
            try:
                self._connection.send(message)
                if handle is not None:
                    send_handle(self._connection, handle, None)
            except OSError:
                return False
        return True

    def receive(self) -> Any:
        """The next message; None when the other side is gone. Blocks."""
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            return None

    def receive_handle(self) -> int:
        """The open file that came with the message before. Blocks."""
        return int(recv_handle(self._connection))

    def has_message(self) -> bool:
        """Whether `receive` would not block."""
        try:
            return self._connection.poll()
        except OSError:
            return False

    def fileno(self) -> int:
        """The number of the open file, for selectors."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close this end."""
        self._connection.close()
