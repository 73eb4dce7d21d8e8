"""The part of a runtime that remote control changes: queues, revoked calls, places, its name and its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from celerylite._store import Delivery
from celerylite._store.processes import is_gone
from celerylite.utils.functional import maybe_list
from celerylite.utils.nodenames import nodesplit
from celerylite.worker import _settlement
from celerylite.worker import state as worker_state
from celerylite.worker._mailbox import Listener, is_revoked_by_stamp
from celerylite.worker._panel import Consumer
from celerylite.worker._slots import Kind
from celerylite.worker._telling import Telling

if TYPE_CHECKING:
    from celerylite._store import Store
    from celerylite.app.base import Celery
    from celerylite.worker import Runtime
    from celerylite.worker._execution import Execution
    from celerylite.worker._keeper import Keeper
    from celerylite.worker._kinds import Kinds
    from celerylite.worker._lease import Lease
    from celerylite.worker._pools import ThreadPool
    from celerylite.worker._prefork import ProcessPool
    from celerylite.worker._slots import Slots

__all__ = ("RemoteControlled",)


class RemoteControlled:
    """What `Runtime` adds for commands from other processes. Thread-safe."""

    app: Celery
    store: Store
    owner: str
    hostname: str
    queues: frozenset[str] | None
    _slots: Slots
    _pool: ThreadPool
    _conductors: ThreadPool
    _kinds: Kinds
    _children: ProcessPool | None
    _keeper: Keeper
    _lease: Lease
    _mutex: threading.Lock
    _stopping: threading.Event
    _paused: set[str]
    _revoked: set[str]

    def _init_remote(self, places: int, is_named: bool) -> None:
        self._is_named = is_named
        #: Plain functions that may run at once.
        self.places = places
        #: Tells monitors what happens here.
        self.events = Telling(self)
        #: Answers remote control.
        self.listener = Listener(cast("Runtime", self))
        consumer = Consumer(cast("Runtime", self))
        self._detach = [
            worker_state.active_requests.attach(consumer.active),
            worker_state.reserved_requests.attach(consumer.reserved),
            worker_state.scheduled_requests.attach(consumer.scheduled),
        ]

    def _start_remote(self) -> None:
        if not self._is_named:
            self._take_a_name()
        self.listener.start()
        self.events.start(self._keeper)

    def _stop_remote(self) -> None:
        self.listener.stop()
        self.events.stop()
        for detach in self._detach:
            detach()

    def _take_a_name(self) -> None:
        """Processes of one host that nobody named are told apart by their number."""
        # After joining: of two that start together, each sees the other.
        names = {
            each.hostname for each in self.store.workers() if each.owner != self.owner and not is_gone(each)
        }
        if self.hostname in names:
            name, host = nodesplit(self.hostname)
            self.hostname = f"{name}-{os.getpid()}@{host}"
            self._lease.join()

    def shut_down(self, now: bool = False) -> None:
        """End as remote control asks: the worker as a program, or the runtime within another one. Blocks."""
        worker_state.should_stop = None
        worker = self.app._worker
        if worker is self or worker is None:
            self.app.stop_runtime(0.0 if now else None, for_good=True)
        elif now:
            worker.terminate()
        else:
            worker.stop()

    # -- queues --------------------------------------------------------------------------------------

    def takes_from(self, queue: str) -> bool:
        """Whether messages of `queue` are run here."""
        return (self.queues is None or queue in self.queues) and queue not in self._paused

    def pause(self, queue: str) -> None:
        """Take no more from `queue`; what is claimed of it and has not begun goes back."""
        self._paused = self._paused | {queue}
        held = self._slots.take_held(lambda delivery: delivery.message.queue == queue)
        if held:
            # They are ours alone now: what is not given back, nobody runs.
            _settlement.patiently(partial(self.store.give_back, held), self._stopping)

    def resume(self, queue: str) -> None:
        """End a pause of `queue`; a process that never took from it does not begin to."""
        self._paused = self._paused - {queue}
        self._keeper.ask("claim")

    def add_queue(self, queue: str) -> None:
        """Take from `queue`, whether or not it was paused or chosen before."""
        self._paused = self._paused - {queue}
        if self.queues is not None and queue not in self.queues:
            self.queues = self.queues | {queue}
            self._lease.join()
        self._keeper.ask("claim")

    # -- calls ---------------------------------------------------------------------------------------

    def held(self) -> list[Delivery]:
        """What is claimed and waits for a place."""
        return list(self._slots.held())

    @property
    def room(self) -> int:
        """How many more messages may be claimed."""
        return self._slots.room()

    def note_revoked(self, ids: Iterable[str]) -> None:
        """These calls were revoked: they will not start here."""
        self._revoked = self._revoked.union(ids)
        self._keeper.ask("revokes")

    def forget_revoked(self, task_id: str) -> None:
        """This call is not revoked any more."""
        self._revoked = self._revoked - {task_id}

    def note_revoked_stamps(self, headers: dict[str, Any]) -> None:
        """Calls with these stamps were revoked: they will not start here."""
        known = worker_state.revoked_stamps
        for header, values in headers.items():
            before = maybe_list(known.get(header)) or []
            known[header] = [*before, *(value for value in maybe_list(values) or [] if value not in before)]

    def revoked_ids(self) -> set[str]:
        """The ids that the database knows as revoked, as of the last look."""
        return self._revoked

    def is_revoked(self, x: Execution) -> bool:
        """Whether the call was revoked, by its id or by a stamp."""
        if x.id in self._revoked or x.id in worker_state.revoked:
            return True
        if not worker_state.revoked_stamps:
            return False
        return is_revoked_by_stamp(x.request.stamps or {}, x.request.stamped_headers)

    def look_at_limits(self) -> None:
        """Rate limits were changed: what waits for one may start."""
        self._keeper.ask("fill")

    def _process_pool(self) -> ProcessPool:
        raise NotImplementedError

    def process_ids(self) -> list[int]:
        """The processes in which plain functions run."""
        return self._children.processes() if self._kinds.prefork and self._children else [os.getpid()]

    def resize(self, places: int) -> None:
        """Run up to so many plain functions at once; what runs goes on."""
        by, self.places = places - self.places, places
        if self._kinds.prefork:
            self._slots.resize(Kind.PROCESS, by)
            self._conductors.resize(places)
            self._process_pool().resize(places)
        else:
            self._slots.resize(Kind.THREAD, by)
            self._pool.resize(places)
        for ask in (partial(self._keeper.ask, "fill"), partial(self._keeper.ask, "claim")):
            ask()
