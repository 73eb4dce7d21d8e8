"""The end of remote control that a beat has: it answers a ping for as long as its scheduler ticks."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from celerylite import _clock
from celerylite._store import BEAT_OWNER, Letter, Store, WorkerRow, this_process
from celerylite.utils import uuid
from celerylite.utils.log import get_logger
from celerylite.utils.nodenames import default_nodename, host_format
from celerylite.worker._keeper import Keeper
from celerylite.worker._lease import Lease
from celerylite.worker._mailbox import CONTROL_TOPIC, LOOK_AGAIN_S, Call, Inbox, post_reply

if TYPE_CHECKING:
    from celerylite.beat import Service

__all__ = ("DEFAULT_MAX_INTERVAL", "NODENAME_DEFAULT", "BeatPidbox", "beat_nodename")

logger = get_logger("celery.beat")

#: Seconds between two looks at a schedule that may have changed.
DEFAULT_MAX_INTERVAL = 300

#: The first half of the node name of a beat.
NODENAME_DEFAULT = "celerybeat"


def beat_nodename(hostname: str | None = None) -> str:
    """The node name of a beat on this host: ``celerybeat@host``, or what `hostname` says, expanded."""
    return host_format(default_nodename(hostname, NODENAME_DEFAULT))


class BeatPidbox:
    """Answers a ping to the node of a `Service`, in a thread of its own, unless the scheduler hangs.

    It joins the processes of the database, so that whoever asks waits for its answer and can name it when
    there is none. Silence is how a liveness probe learns of a tick that does not end: an error would be an
    answer as well.
    """

    __module__ = "celerylite.beat"

    #: The least that `max_tick_age` is by itself, in seconds: one slow tick is no failure.
    min_tick_age = 60.0

    def __init__(self, service: Service) -> None:
        self.service = service
        self.app = service.app
        self.hostname = beat_nodename(service.hostname)
        self._node: _Node | None = None

    # -- how the scheduler is ------------------------------------------------------------------------

    @property
    def max_tick_age(self) -> float:
        """Seconds without a tick after which nobody is answered; 0: everybody always is."""
        configured = self.app.conf.beat_remote_control_max_tick_age
        if configured is not None:
            return float(configured)
        service = self.service
        interval_s = service.effective_max_interval or service.max_interval or DEFAULT_MAX_INTERVAL
        return max(interval_s * 2, self.min_tick_age)

    def tick_age(self) -> float | None:
        """Seconds since the last tick ended; None before the service has started."""
        last_tick = self.service._last_tick
        return None if last_tick is None else _clock.monotonic() - last_tick

    def is_stale(self) -> bool:
        """Whether the scheduler hangs."""
        limit_s, age_s = self.max_tick_age, self.tick_age()
        return bool(limit_s) and age_s is not None and age_s > limit_s

    # -- answering -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to answer as soon as the database can be reached. Does not block. Repeatable."""
        if self._node is None:
            self._node = _Node(self.app.store, self.hostname, float(self.app.conf.celerylite_lease))
            self._node.start(self._is_silent)

    def stop(self) -> None:
        """Leave, and answer nobody any more. Repeatable."""
        node, self._node = self._node, None
        if node is not None:
            node.stop()

    def _is_silent(self) -> bool:
        if not self.is_stale():
            return False
        logger.warning(
            "beat: %s does not answer a ping: expected a tick within %.1f seconds "
            "(beat_remote_control_max_tick_age), the last one ended %.1f seconds ago",
            self.hostname,
            self.max_tick_age,
            self.tick_age(),
        )
        return True


class _Node:
    """One that is seen among the processes of a database and answers pings. Thread-safe."""

    def __init__(self, store: Store, hostname: str, lease_s: float) -> None:
        self._store, self._hostname = store, hostname
        self._owner = f"{BEAT_OWNER}{uuid()}"
        self._inbox = Inbox(store, {CONTROL_TOPIC})
        self._lease = Lease(store, self._owner, lease_s, self._row)
        self._keeper = Keeper("celerylite-beat-control")
        self._is_silent: Callable[[], bool] = lambda: False
        self._forget: Callable[[], None] = lambda: None

    def start(self, is_silent: Callable[[], bool]) -> None:
        self._is_silent = is_silent
        self._keeper.add("join", self._join)
        self._forget = self._store.on_letters(lambda: self._keeper.ask("letters"))
        self._keeper.start()

    def stop(self) -> None:
        self._forget()
        self._keeper.stop(5.0)
        # Last: a chore that was under way must not bring the row back.
        self._lease.leave()

    def _join(self) -> None:
        # What was asked before it joined is none of its business; whoever asks from then on waits for it.
        self._inbox.unread()
        self._lease.join()
        self._lease.start()
        self._keeper.add("letters", self._read)
        logger.info("beat: Answering a ping as %s", self._hostname)

    def _row(self) -> WorkerRow:
        return this_process(self._owner, self._hostname, os.getpid(), queues=())

    def _read(self) -> float:
        self._inbox.obey_unread(self._answer)
        return LOOK_AGAIN_S

    def _answer(self, letter: Letter) -> None:
        call = Call.from_letter(letter)
        # What is for others, or no ping, is not answered: an error from here would be in their way.
        if call.method == "ping" and call.reaches(self._hostname) and not self._is_silent():
            post_reply(self._store, call, self._owner, self._hostname, {"ok": "pong"})
