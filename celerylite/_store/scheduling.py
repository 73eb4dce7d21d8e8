"""The part of the SQL store that keeps the schedule: each tick once, and the entries that are edited."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import Any

from celerylite import _clock
from celerylite._store import (
    SCHEDULE_TOPIC,
    Duplicate,
    Outgoing,
    Overlap,
    PeriodicRow,
    Published,
    Store,
    Ticked,
)
from celerylite._store.control import Control
from celerylite._store.engine import Database, Transaction
from celerylite._store.keywait import KeyWait
from celerylite._store.messages import Messages
from celerylite._store.periodic import Periodic
from celerylite._store.writer import Writer

__all__ = ("Scheduling",)

#: Seconds for which processes can read that the schedule was edited; they look now and then anyway.
_LETTER_S = 300.0


class Scheduling(Store):
    """What `SqlStore` does for the schedule; the tables, and how a message is inserted, are its own."""

    database: Database
    _writer: Writer
    _key_wait: KeyWait
    _control: Control
    _messages: Messages
    _periodic: Periodic

    @abstractmethod
    def _insert(
        self, tx: Transaction, outgoing: Sequence[Outgoing], may_raise: bool = True
    ) -> list[Published]: ...

    def tick(
        self,
        entry: str,
        due_at: float,
        outgoing: Sequence[Outgoing],
        *,
        ran_at: float | None = None,
        next_run_at: float | None = None,
        overlap: Overlap = Overlap.ALLOW,
        is_busy: bool = False,
        app: str | None = None,
        counts: bool = True,
    ) -> Ticked:
        at = _clock.time() if ran_at is None else ran_at

        def take(tx: Transaction) -> Ticked:
            if not self._periodic.take(tx, entry, due_at):
                return Ticked.ELSEWHERE
            # The entry may be new, or removed by a program that does not know it.
            self._periodic.add(tx, PeriodicRow(name=entry, app=app))
            # Before it is known whether the run goes out: its lock makes ticks of one entry take turns.
            self._periodic.ran(tx, entry, at, next_run_at, counts)
            if overlap is not Overlap.ALLOW and (is_busy or self._is_busy(tx, entry)):
                if counts:
                    self._periodic.discount(tx, entry)
                if overlap is Overlap.BUFFER_ONE:
                    self._periodic.buffer(tx, entry, due_at)
                return Ticked.HELD_BACK
            self._send(tx, entry, outgoing)
            return Ticked.PUBLISHED

        return self._key_wait.run(lambda: self._writer.run(take))

    def _is_busy(self, tx: Transaction, entry: str) -> bool:
        task_id, buffered_at = self._periodic.last_sent(tx, entry)
        if buffered_at is not None:
            return True
        return task_id is not None and self._messages.is_outstanding(tx, task_id)

    def _send(self, tx: Transaction, entry: str, outgoing: Sequence[Outgoing]) -> None:
        if outgoing:
            unclaimed = [Outgoing(message=each.message) for each in outgoing]
            first = self._insert(tx, unclaimed, may_raise=False)[0]
            sent = first.holder if isinstance(first, Duplicate) else outgoing[0].message.id
            self._periodic.sent(tx, entry, sent)

    def tick_buffered(self, entry: str, due_at: float, outgoing: Sequence[Outgoing]) -> bool:
        def take(tx: Transaction) -> bool:
            task_id, buffered_at = self._periodic.last_sent(tx, entry)
            if buffered_at != due_at or (task_id and self._messages.is_outstanding(tx, task_id)):
                return False
            if not self._periodic.unbuffer(tx, entry, due_at):
                return False
            self._send(tx, entry, outgoing)
            return True

        return self._key_wait.run(lambda: self._writer.run(take))

    def is_outstanding(self, task_id: str) -> bool:
        self._writer.flush()
        return self.database.read(lambda tx: self._messages.is_outstanding(tx, task_id))

    def periodic(self, names: Collection[str] | None = None) -> dict[str, PeriodicRow]:
        if names is None:
            return self.database.read(self._periodic.all)
        return self.database.read(lambda tx: self._periodic.some(tx, names))

    def add_periodic(self, rows: Sequence[PeriodicRow]) -> set[str]:
        def add(tx: Transaction) -> set[str]:
            added = {row.name for row in rows if self._periodic.add(tx, row)}
            if any(row.spec is not None for row in rows if row.name in added):
                self._tell_of_edit(tx)
            return added

        return self._writer.run(add)

    def edit_periodic(self, name: str, **columns: Any) -> bool:
        if "enabled" in columns:
            columns["enabled"] = int(columns["enabled"])

        def edit(tx: Transaction) -> bool:
            self._tell_of_edit(tx)
            return self._periodic.edit(tx, name, columns)

        return self._writer.run(edit)

    def delete_periodic(self, name: str) -> bool:
        def delete(tx: Transaction) -> bool:
            self._tell_of_edit(tx)
            return self._periodic.delete(tx, name)

        return self._writer.run(delete)

    def _tell_of_edit(self, tx: Transaction) -> None:
        # A letter, because that is what every process looks for on every database.
        self._control.post(tx, SCHEDULE_TOPIC, "", _clock.time() + _LETTER_S)
