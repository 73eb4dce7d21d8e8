"""The part of a runtime that takes messages: from the database into memory, and from there into a place."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from functools import partial
from typing import TYPE_CHECKING

from celerylite import _clock
from celerylite._store import Delivery
from celerylite.utils.log import get_logger
from celerylite.worker import _settlement
from celerylite.worker._places import limits_of
from celerylite.worker._slots import Kind

if TYPE_CHECKING:
    from celerylite._store import Store
    from celerylite.app.base import Celery
    from celerylite.worker._keeper import Keeper
    from celerylite.worker._limits import RateLimits
    from celerylite.worker._slots import Slots

__all__ = ("LOOK_AGAIN_S", "Taking")

logger = get_logger("celery.worker")

#: Seconds between looks for messages when nothing tells of them (a notification may get lost).
LOOK_AGAIN_S = 5.0


class Taking:
    """What `Runtime` does to find work. Claimed messages are held in memory until there is a place for them.

    A message leaves memory marked as started, in a commit of its own or of those that begin with it.
    """

    app: Celery
    store: Store
    owner: str
    queues: frozenset[str] | None
    _only_known: bool
    _paused: set[str]
    _slots: Slots
    _keeper: Keeper
    _rates: RateLimits
    _stopping: threading.Event
    _kind: Callable[[str], Kind]
    _launch: Callable[[Delivery], None]
    #: The keeper takes messages just now, which are not held yet.
    _claims = False

    def take_all(self) -> None:
        """Take tasks of every name from now on: what this process does not know either fails visibly."""
        if self._only_known:
            self._only_known = False
            self._keeper.ask("rescue")
            self._keeper.ask("claim")

    def _names(self) -> Collection[str] | None:
        """The tasks that may be taken from the database; None for all.

        A process that runs tasks only because it published one leaves what it does not know to others:
        they may be a whole application that is down at the moment.
        """
        return {*self.app._tasks, _settlement.CHORD_BODY} if self._only_known else None

    def _claim(self) -> float | None:
        room = self._slots.room()
        if room == 0:
            self._slots.set_backlog(True)
            # There may be places all the same, after a begin that failed.
            self._fill_all()
            return LOOK_AGAIN_S
        self._claims = True
        try:
            found = self.store.claim(self.owner, self._queues_to_claim(), room, names=self._names())
            self._slots.set_backlog(found.more)
            for delivery in found.deliveries:
                self._slots.hold(self._kind(delivery.message.name), delivery)
        finally:
            self._claims = False
        for row in found.corrupt:
            logger.error(
                "task %s: its message (row %s of celerylite_messages) could not be read: %s. It has left the "
                "queue and is kept as a FAILURE; send the task again.",
                row.task_id,
                row.row,
                row.reason,
                extra={"action": "corrupt"},
            )
        self._fill_all()
        if found.next_due_at is None:
            return LOOK_AGAIN_S
        return min(LOOK_AGAIN_S, max(0.0, found.next_due_at - _clock.time()))

    def _queues_to_claim(self) -> Collection[str] | None:
        if not self._paused:
            return self.queues
        known = self.queues if self.queues is not None else frozenset(self.store.queue_lengths())
        return known - self._paused

    def _fill_all(self) -> None:
        """Start what is held and has a place. One kind does not take the places before another's turn."""
        done: set[Kind] = set()
        while left := [kind for kind in self._slots.waiting_kinds() if kind not in done]:
            deliveries = self._next(left[0], fill=True)
            if not deliveries:
                done.add(left[0])
            for delivery in deliveries:
                self._launch(delivery)

    def _next_of(self, kind: Kind, fill: bool = False) -> Delivery | None:
        """The message that `kind` goes on with; what began together with it is launched.

        Where kinds share places, others may have their turn.
        """
        waiting = self._slots.waiting_kinds()
        if not waiting:
            return None
        deliveries = self._next(kind, fill) if waiting[0] is kind else []
        for delivery in deliveries[1:]:
            self._launch(delivery)
        if waiting != [kind]:
            try:
                self._fill_all()
            except Exception:
                # What has begun above is still to be run by the caller.
                logger.exception("could not start what waits; it is tried again")
                self._keeper.ask("fill", LOOK_AGAIN_S)
        return deliveries[0] if deliveries else None

    def _next(self, kind: Kind, fill: bool = False) -> list[Delivery]:
        """The next held messages that may start (see `Slots.next`), marked as started in one commit."""
        while deliveries := self._slots.next(kind, self._may_start, fill):
            # Durable before the call: after a crash nobody may take it for one that has not started.
            try:
                limits = limits_of(self.app, deliveries)
                begun = _settlement.patiently(
                    partial(self.store.begin, deliveries, limits=limits), self._stopping
                )
            except BaseException:
                for delivery in deliveries:
                    self._slots.hold(kind, delivery)
                for _ in deliveries:
                    self._slots.release(kind)
                self._keeper.ask("fill", LOOK_AGAIN_S)
                raise
            started = [delivery for delivery in deliveries if begun and delivery.row in begun]
            for _ in range(len(deliveries) - len(started)):
                self._release(kind)
            if self._slots.wants_more():
                self._keeper.ask("claim")
            if started:
                if len(started) < len(deliveries):
                    self._keeper.ask("fill")  # There are places left, for whoever else is held.
                return started
        return []

    def _may_start(self, delivery: Delivery) -> bool:
        name = delivery.message.name
        if not self._is_rate_limited(name):
            return True
        wait = self._rates.wait(name, self.app._tasks[name].rate_limit)
        if wait:
            self._keeper.ask("fill", wait)
        return wait == 0.0

    def _release(self, kind: Kind) -> None:
        if self._slots.release(kind):
            self._keeper.ask("claim")

    def _is_rate_limited(self, name: str) -> bool:
        task = self.app._tasks.get(name)
        if task is None or not task.rate_limit or self.app.conf.worker_disable_rate_limits:
            return False
        return self._rates.is_limited(name, task.rate_limit)
