"""One child process, as its parent sees it."""

from __future__ import annotations

import signal
from enum import Enum
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from celerylite import _clock
from celerylite.worker._child_link import Interrupt, Link, Signal

if TYPE_CHECKING:
    from celerylite.worker._template import Template

__all__ = ("Child", "ChildState", "human_status")


class ChildState(Enum):
    """What a child is there for at the moment."""

    STARTING = "not heard of yet"
    IDLE = "waits for a call"
    BUSY = "has a call"
    LEAVING = "takes no call any more"


class Child:
    """A child process: what it is doing, and how to talk to it."""

    def __init__(self, number: int, template: Template, link: Link) -> None:
        self.number = number
        self.pid: int | None = None
        self.state = ChildState.STARTING
        #: Monotonic seconds at which it got into its state.
        self.since = _clock.monotonic()
        self.template = template
        self.link = link
        #: `Outcome`, `Done` and `Exited`, for who has given it a call.
        self.events: SimpleQueue[Any] = SimpleQueue()

    def signal(self, signum: int) -> None:
        """Send it a signal, if it is alive."""
        self.template.link.send(Signal(self.number, signum))

    def interrupt(self, call: int, signum: int) -> None:
        """Send it a signal that is meant for one call."""
        self.link.send(Interrupt(call, signum))
        self.signal(signum)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)

    def become(self, state: ChildState) -> None:
        """It is in another state from now on."""
        self.state, self.since = state, _clock.monotonic()


def human_status(status: int) -> str:
    """How a process ended, in Celery's words."""
    if status >= 0:
        return f"exitcode {status}"
    try:
        return f"signal {-status} ({signal.Signals(-status).name})"
    except ValueError:
        return f"signal {-status}"
