"""The part of a runtime that publishes: what can run here is claimed by its insert and starts at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from celerylite import _clock
from celerylite._message import Message
from celerylite._store import Claim, Delivery, Done, Duplicate, Outgoing, Published, holders
from celerylite.worker._places import is_limited
from celerylite.worker._settlement import CHORD_BODY
from celerylite.worker._slots import Kind, Place

if TYPE_CHECKING:
    from celerylite._store import Store
    from celerylite.app.base import Celery
    from celerylite.worker._keeper import Keeper
    from celerylite.worker._slots import Slots

__all__ = ("Publishing",)


class Publishing:
    """What `Runtime` does for `delay` and for what follows an outcome. Thread-safe.

    A place is reserved before the insert, so that nobody else may take the message between the two.
    """

    app: Celery
    store: Store
    owner: str
    takes_from: Callable[[str], bool]
    _slots: Slots
    _keeper: Keeper
    _stopping: threading.Event
    _only_known: bool
    _kind: Callable[[str], Kind]
    _is_rate_limited: Callable[[str], bool]
    _launch: Callable[[Delivery], None]
    _start_held: Callable[[Kind], None]

    def publish(self, messages: Sequence[Message]) -> dict[str, str]:
        """Commit messages; what can run here starts at once. After an OperationalError nothing is sent.

        Returns the duplicates, which are not sent either: by the task's id the one that holds its key.
        """
        outgoing = [self.outgoing(message) for message in messages]
        try:
            deliveries = self.store.publish(outgoing)
        except BaseException:
            self.not_published(outgoing)
            raise
        self.published(outgoing, deliveries)
        return holders(deliveries)

    def publish_soon(self, messages: Sequence[Message], done: Done[dict[str, str]]) -> None:
        """As `publish`, without blocking: `done` is told when the messages are committed."""
        outgoing = [self.outgoing(message) for message in messages]

        def committed(published: list[Published] | None, error: BaseException | None) -> None:
            if published is None:
                self.not_published(outgoing)
                done(None, error)
            else:
                self.published(outgoing, published)
                done(holders(published), None)

        self.store.publish_soon(outgoing, committed)

    def publish_later(self, messages: Sequence[Message]) -> None:
        """As `publish`, committed soon and started then. Does not wait for it, nor tell of duplicates."""
        outgoing = [self.outgoing(message) for message in messages]

        def committed(published: list[Published] | None, error: BaseException | None) -> None:
            if published is None:
                self.not_published(outgoing)
            else:
                self.published(outgoing, published)

        self.store.publish_later(outgoing, committed)

    def outgoing(self, message: Message) -> Outgoing:
        """`message`, claimed by this runtime if there is a place for it."""
        place = self._reserve(message)
        if place is Place.WAITING:
            return Outgoing(message=message)
        return Outgoing(message=message, claim=Claim(owner=self.owner, running=place is Place.RUNNING))

    def _reserve(self, message: Message) -> Place:
        if self._stopping.is_set() or not self.takes_from(message.queue):
            return Place.WAITING
        if message.due_at is not None and message.due_at > _clock.time():
            return Place.WAITING
        if self._only_known and not (message.name in self.app._tasks or message.name == CHORD_BODY):
            return Place.WAITING
        return self._slots.reserve(
            self._kind(message.name),
            may_start=not (self._is_rate_limited(message.name) or is_limited(self.app, message.name)),
        )

    def not_published(self, outgoing: Iterable[Outgoing]) -> None:
        """Free the places of messages that were not committed."""
        for item in outgoing:
            if item.claim is not None:
                place = Place.RUNNING if item.claim.running else Place.HELD
                self._slots.unreserve(self._kind(item.message.name), place)

    def published(self, outgoing: Sequence[Outgoing], deliveries: Sequence[Published]) -> None:
        """Start or hold what was committed as ours, and look out for the rest in its time."""
        for item, delivery in zip(outgoing, deliveries, strict=True):
            if delivery is None:
                # If a place was reserved for it, others took the call over while an answer was lost.
                self.not_published([item])
                self._await_message(item.message)
            elif isinstance(delivery, Duplicate):
                self.not_published([item])
            elif delivery.running:
                self._launch(delivery)
            else:
                kind = self._kind(delivery.message.name)
                if self._slots.hold(kind, delivery, promised=True):
                    self._start_held(kind)

    def _await_message(self, message: Message) -> None:
        if message.due_at is not None:
            self._keeper.ask("claim", max(0.0, message.due_at - _clock.time()))
