"""Places of limited tasks in SQL: taken as a run begins, handed on as it ends. Runs in a given transaction.

A place counts while its message is RUNNING, so no crash can lose one. Who finds none is parked: SCHEDULED
for a time that does not matter, until the transaction that frees a place makes it READY.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from celerylite import _clock
from celerylite._store import Delivery, Limit, MessageState
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction
from celerylite._store.schema import Tables

__all__ = ("Places",)

#: Seconds after which a parked message looks by itself: nothing depends on it, see `forgotten`.
_PARKED_S = 3600.0
#: Keys whose waiting messages are looked after at once.
_SOME = 50
#: How many are woken in one transaction.
_MANY = 500

# In the SQL as numbers: see `messages`.
_STATES: list[sa.ColumnClause[int]] = [sa.literal_column(str(int(state))) for state in MessageState]
_SCHEDULED, _READY, _, _RUNNING = _STATES


class Places:
    """The tables of places, and of messages that wait for one.

    Whoever takes or frees a place first locks the places of that key, lowest number first. So a message is
    parked under the lock of the places it has found taken, and who frees one of them finds it.
    """

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        messages, m = tables.messages, tables.messages.c
        places, p = tables.places, tables.places.c
        parked, k = tables.parked, tables.parked.c
        bind = sa.bindparam
        of_key = p.limit_key == bind("limit_key")
        taken = sa.select(p.number, p.message).where(of_key).order_by(p.number).with_for_update()
        self._taken = Statement(lambda: taken)
        ids: sa.BindParameter[Any] = bind("ids", expanding=True)
        self._running = Statement(lambda: sa.select(m.id).where(m.id.in_(ids), m.state == _RUNNING))
        self._take = Statement(lambda: dialect.insert_ignore(places, ("limit_key", "number", "message")))
        self._free = Statement(lambda: places.delete().where(of_key, p.message.in_(ids)))
        ours = sa.and_(m.id == bind("row"), m.token == bind("held"))
        back: dict[str, Any] = {"state": _SCHEDULED, "due_at": bind("at"), "deliveries": m.deliveries - 1}
        free: dict[str, Any] = {"owner": sa.null(), "token": sa.null()}
        self._set_aside = Statement(lambda: messages.update().where(ours).values(**back, **free))
        self._park = Statement(
            lambda: dialect.insert_ignore(parked, ("message", "limit_key", "turn", "places"))
        )
        waiting = sa.select(k.message).where(k.limit_key == bind("limit_key")).order_by(k.turn, k.message)
        self._waiting = Statement(lambda: dialect.skip_locked(waiting.limit(bind("limit"))))
        self._unpark = Statement(lambda: parked.delete().where(k.message.in_(ids)))
        self._wake = Statement(
            lambda: (
                messages.update()
                .where(m.id.in_(ids), m.state == _SCHEDULED)
                .values(state=_READY, due_at=sa.null())
            )
        )
        running = sa.select(sa.func.count()).select_from(places.join(messages, m.id == p.message))
        running = running.where(p.limit_key == k.limit_key, m.state == _RUNNING).correlate(parked)
        most = sa.func.max(k.places)
        self._forgotten = Statement(
            lambda: (
                sa.select(k.limit_key, most)
                .group_by(k.limit_key)
                .having(running.scalar_subquery() < most)
                .limit(_SOME)
            )
        )

    def take(self, tx: Transaction, delivery: Delivery, limit: Limit, held: set[int]) -> None:
        """Take a place for a delivery that was marked RUNNING; else park it, and take it out of `held`.

        To be deferred by the key: see `Transaction.defer`.
        """
        if delivery.row in held and not self._find_place(tx, delivery, limit):
            self._set_message_aside(tx, delivery, limit)
            held.discard(delivery.row)

    def _find_place(self, tx: Transaction, delivery: Delivery, limit: Limit) -> bool:
        while True:
            taken = self._lock(tx, limit.key)
            if delivery.row in taken.values():
                return True  # In the first try of this transaction, whose answer was lost.
            if len(taken) >= limit.places:
                return False
            number = next(each for each in range(len(taken) + 1) if each not in taken)
            # Nothing is locked where nothing was: another may be first, then we know its row the next time.
            if tx.run(self._take, limit_key=limit.key, number=number, message=delivery.row) == 1:
                return True

    def _lock(self, tx: Transaction, key: str) -> dict[int, int]:
        """The places of the key that are taken, locked: message by number."""
        found = {row[0]: row[1] for row in tx.rows(self._taken, limit_key=key)}
        if not found:
            return found
        running = {row[0] for row in tx.rows(self._running, ids=list(found.values()))}
        gone = [message for message in found.values() if message not in running]
        if gone:
            tx.run(self._free, limit_key=key, ids=gone)
        return {number: message for number, message in found.items() if message in running}

    def _set_message_aside(self, tx: Transaction, delivery: Delivery, limit: Limit) -> None:
        tx.run(self._set_aside, row=delivery.row, held=delivery.token, at=_clock.time() + _PARKED_S)
        turn = -delivery.message.priority
        tx.run(self._park, message=delivery.row, limit_key=limit.key, turn=turn, places=limit.places)

    def leave(self, tx: Transaction, limit: Limit) -> None:
        """Hand on what is free, after a message has left RUNNING. To be deferred by the key."""
        wanted = limit.places - len(self._lock(tx, limit.key))
        while wanted > 0:
            found = [row[0] for row in tx.rows(self._waiting, limit_key=limit.key, limit=min(wanted, _MANY))]
            if not found:
                return
            tx.run(self._unpark, ids=found)
            woken = tx.run(self._wake, ids=found)  # Others were revoked, purged, or came due.
            tx.changes.messages = tx.changes.messages or woken > 0
            wanted -= woken

    def forgotten(self, tx: Transaction) -> Collection[Limit]:
        """Limits with free places that somebody waits for: of messages that went without settling."""
        return [Limit(key=row[0], places=row[1]) for row in tx.rows(self._forgotten)]
