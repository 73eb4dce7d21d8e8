"""How much a runtime runs at once, and the claimed messages that wait for a free place."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable, Iterable
from enum import Enum

from celerylite._store import Delivery

__all__ = ("Kind", "Place", "Slots")


class Kind(Enum):
    """Where a task runs."""

    THREAD = "thread"
    LOOP = "loop"
    PROCESS = "process"


class Place(Enum):
    """What a message that is being published gets."""

    #: It starts at once.
    RUNNING = 1
    #: It is claimed and waits in memory.
    HELD = 2
    #: It waits in the database, for whoever comes first.
    WAITING = 3


class Slots:
    """Counts free places per kind, and holds claimed messages by priority, then age. Thread-safe.

    What is held is bounded by `room`: a flood of messages waits in the database, not in memory.
    """

    def __init__(self, limits: dict[Kind, int], total: int | None, room: int) -> None:
        self._mutex = threading.Lock()
        self._idle = threading.Condition(self._mutex)
        self._free = dict(limits)
        #: Free places over all kinds, when there is a common limit.
        self._free_total = sum(limits.values()) if total is None else total
        self._shared = total is not None
        self._room = room
        #: Places in memory that were promised to messages being published.
        self._promised = 0
        self._held: dict[Kind, list[tuple[int, int, Delivery]]] = {kind: [] for kind in limits}
        self._running = 0
        #: How often a place was taken or a message held.
        self._moves = 0
        #: Tasks that have ended and whose outcome is not committed yet; they have no place any more.
        self._unsettled = 0
        self._hurried = False
        #: Messages wait in the database behind the ones in memory.
        self._backlog = False
        self._closed = False

    def reserve(self, kind: Kind, may_start: bool = True) -> Place:
        """A place for a message that is about to be published; see `taken` and `unreserve`.

        Nothing overtakes: while messages wait in the database, new ones go there too.
        """
        with self._mutex:
            if self._closed or self._backlog:
                return Place.WAITING
            if may_start and not self._held[kind] and self._take(kind):
                return Place.RUNNING
            if self._count_held() + self._promised < self._room:
                self._promised += 1
                return Place.HELD
            self._backlog = True
            return Place.WAITING

    def unreserve(self, kind: Kind, place: Place) -> None:
        """Give a reserved place back: the message was not published."""
        with self._mutex:
            if place is Place.RUNNING:
                self._give(kind)
            elif place is Place.HELD:
                self._promised -= 1

    def hold(self, kind: Kind, delivery: Delivery, promised: bool = False) -> bool:
        """Keep a claimed message until there is a place; True when there is one right now.

        False with `closed` set means that the runtime is stopping: the message must be given back.
        """
        with self._mutex:
            self._moves += 1
            self._promised -= promised
            heapq.heappush(self._held[kind], (-delivery.message.priority, delivery.row, delivery))
            return self._free[kind] > 0 and self._free_total > 0

    def room(self) -> int:
        """How many more messages may be claimed."""
        with self._mutex:
            if self._closed:
                return 0
            return max(0, self._room - self._count_held() - self._promised)

    def next(self, kind: Kind, allowed: Callable[[Delivery], bool], fill: bool = False) -> list[Delivery]:
        """The next held message, with a place taken for it; none when there is no place or no message.

        With `fill`, or while messages wait in the database, as many as there are free places; still one where
        kinds share places and another is held. `allowed` may turn messages down for now (rate limits); they
        stay held. What it raises is raised if it is asked about the first, else left to the next caller.
        """
        with self._mutex:
            most = self._free[kind] if (fill or self._backlog) and self._is_alone(kind) else 1
            deliveries: list[Delivery] = []
            try:
                while len(deliveries) < most and (one := self._next_one(kind, allowed)) is not None:
                    deliveries.append(one)
            except Exception:
                # Those before it go on.
                if not deliveries:
                    raise
            return deliveries

    def _next_one(self, kind: Kind, allowed: Callable[[Delivery], bool]) -> Delivery | None:
        if not self._held[kind] or self._closed or not self._take(kind):
            return None
        delivery = None
        try:
            delivery = self._pop_allowed(kind, allowed)
        finally:
            if delivery is None:
                self._give(kind)
        return delivery

    def _is_alone(self, kind: Kind) -> bool:
        """Whether nothing is held that shares its places and whose turn it might be in between."""
        return not self._shared or not any(held for other, held in self._held.items() if other is not kind)

    def _pop_allowed(self, kind: Kind, allowed: Callable[[Delivery], bool]) -> Delivery | None:
        passed: list[tuple[int, int, Delivery]] = []
        found = None
        held = self._held[kind]
        try:
            while held and found is None:
                passed.append(heapq.heappop(held))
                if allowed(passed[-1][2]):
                    found = passed.pop()[2]
        finally:
            for entry in passed:
                heapq.heappush(held, entry)
        return found

    def release(self, kind: Kind) -> bool:
        """A task has ended; True when it is time for a claim, see `wants_more`."""
        with self._mutex:
            self._give(kind)
            return self._wants_more()

    def wants_more(self) -> bool:
        """Whether messages wait in the database and there is room for some."""
        with self._mutex:
            return self._wants_more()

    def _wants_more(self) -> bool:
        return self._backlog and self._count_held() <= self._room // 2

    def waiting_kinds(self) -> list[Kind]:
        """The kinds of which messages are held, the one whose turn it is first."""
        with self._mutex:
            heads = {kind: held[0][:2] for kind, held in self._held.items() if held}
        return sorted(heads, key=lambda kind: heads[kind])

    def _take(self, kind: Kind) -> bool:
        if self._free[kind] <= 0 or self._free_total <= 0:
            return False
        self._free[kind] -= 1
        self._free_total -= 1
        self._running += 1
        self._moves += 1
        return True

    def _give(self, kind: Kind) -> None:
        self._free[kind] += 1
        self._free_total += 1
        self._running -= 1
        self._tell_if_idle()

    def settling(self, more: int) -> None:
        """Count an outcome that is on its way to the database (1), or has arrived there (-1)."""
        with self._mutex:
            self._unsettled += more
            self._tell_if_idle()

    def _is_idle(self) -> bool:
        return self._running == 0 and self._unsettled == 0

    def _tell_if_idle(self) -> None:
        # Not at the end of each task: who waits would compete with the tasks for the interpreter.
        if self._is_idle():
            self._idle.notify_all()

    def resize(self, kind: Kind, by: int) -> None:
        """Add `by` places (or take away: they go as tasks end)."""
        with self._mutex:
            self._free[kind] += by
            self._free_total += by

    @property
    def backlog(self) -> bool:
        """Whether messages wait in the database."""
        return self._backlog

    def set_backlog(self, more: bool) -> None:
        """Say whether messages wait in the database."""
        with self._mutex:
            self._backlog = more

    def take_held(self, pick: Callable[[Delivery], bool] = lambda delivery: True) -> list[Delivery]:
        """Remove held messages (all, or those that `pick` chooses) and return them."""
        with self._mutex:
            taken: list[Delivery] = []
            for kind, heap in self._held.items():
                kept = [entry for entry in heap if not pick(entry[2])]
                taken.extend(entry[2] for entry in heap if pick(entry[2]))
                heapq.heapify(kept)
                self._held[kind] = kept
            return taken

    def close(self) -> None:
        """Start nothing any more."""
        with self._mutex:
            self._closed = True
            self._idle.notify_all()

    def wait_idle(self, timeout: float | None) -> bool:
        """Wait until nothing runs; False after `timeout` real seconds or once told to `hurry`."""
        with self._mutex:
            self._idle.wait_for(lambda: self._is_idle() or self._hurried, timeout)
            return self._is_idle()

    def hurry(self) -> None:
        """End every `wait_idle`, now and later."""
        with self._mutex:
            self._hurried = True
            self._idle.notify_all()

    def wait_pause(self, timeout: float) -> bool:
        """Wait until the last task that runs has ended; False after `timeout` real seconds."""
        with self._mutex:
            return self._idle.wait(timeout)

    def is_last(self) -> bool:
        """Whether nothing runs or is held but the task that asks."""
        with self._mutex:
            return self._running <= 1 and not self._promised and not self._count_held()

    def counts(self) -> tuple[int, int]:
        """How many run or are being settled, and how many are held."""
        with self._mutex:
            return self._running + self._unsettled, self._count_held() + self._promised

    def moves(self) -> int:
        """A number that changes whenever a place is taken or a message held."""
        with self._mutex:
            return self._moves

    def held(self) -> Iterable[Delivery]:
        """What is held now."""
        with self._mutex:
            return [entry[2] for heap in self._held.values() for entry in heap]

    def _count_held(self) -> int:
        return sum(len(heap) for heap in self._held.values())
