"""The lease by which others see that this process lives, renewed whatever else keeps it busy."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kombu.exceptions import OperationalError

from celerylite._store import Store, WorkerRow
from celerylite.utils.log import get_logger
from celerylite.worker._keeper import Keeper
from celerylite.worker._pulse import Pulse

__all__ = ("Lease",)

logger = get_logger("celery.worker")


class Lease:
    """Joins the processes of a database, stays one of them, and leaves. Thread-safe.

    It has a thread of its own, which does nothing but wait and renew: the other chores claim, rescue and
    call code of the user's, and may take longer than a lease lasts. `who` describes the process as it is now.
    """

    def __init__(self, store: Store, owner: str, lease_s: float, who: Callable[[], WorkerRow]) -> None:
        self._store, self._owner, self._who = store, owner, who
        self._every_s = lease_s / 3
        self._pulse = Pulse(lease_s)
        self._keeper = Keeper("celerylite-lease")
        #: Held while the row is written: who has left must not be brought back by a renewal under way.
        self._mutex = threading.Lock()
        self._left = False

    def join(self) -> None:
        """Be seen, under the name and with the queues that the process has now. Blocks."""
        with self._mutex:
            self._store.join(self._who())

    def start(self) -> None:
        """Begin to renew."""
        self._keeper.add("lease", self.renew, after=self._every_s)
        self._keeper.start()

    def renew(self) -> float | None:
        """Prolong the lease; the seconds until it has to be done again. Blocks."""
        with self._mutex:
            if self._left:
                return None
            if not self._store.renew(self._owner):
                logger.warning("this process was taken for dead: its lease had lapsed; joining again")
                self._store.join(self._who())
            self._pulse.beat()
            return self._every_s

    def is_steady(self) -> bool:
        """Whether it was kept well enough to judge the leases of others."""
        return self._pulse.is_steady()

    def leave(self) -> None:
        """Be gone: others may take over at once, or after the lease if the database is away. Blocks."""
        self._keeper.stop()
        with self._mutex:
            self._left = True
            try:
                self._store.leave(self._owner)
            except OperationalError as exc:
                logger.warning("could not say goodbye to the database: %r; the lease will run out", exc)
