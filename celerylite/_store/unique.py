"""Keys of unique calls in SQL: taken with the message, freed with its end. Runs in a given transaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Protocol

import sqlalchemy as sa

from celerylite import _clock
from celerylite._call_keys import UNIQUE
from celerylite._message import Message
from celerylite._store import Duplicate, MessageState, Outgoing, Published, Settlement
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction, chunks
from celerylite._store.keywait import KeyLocked, LockedKeys
from celerylite._store.messages import Messages, row_of
from celerylite._store.schema import Tables
from celerylite.exceptions import AlreadyQueued

__all__ = ("Unique", "has_key")

#: Looks at a key that others take and free meanwhile; one is the rule.
_LOOKS = 100
#: Values in one IN.
_MANY = 500
# In the SQL as a number: see `messages`.
_RUNNING: sa.ColumnClause[int] = sa.literal_column(str(int(MessageState.RUNNING)))


def has_key(outgoing: Sequence[Outgoing]) -> bool:
    """Whether a message among them holds a key."""
    return any(UNIQUE in each.message.headers for each in outgoing)


class _Connection(Protocol):
    """What takes keys: our own transaction, or that of a caller."""

    def run(self, statement: Statement, **parameters: Any) -> int: ...

    def one(self, statement: Statement, **parameters: Any) -> Any | None: ...


class Unique:
    """The table of keys.

    A key is free when there is no row, when its time is over, or, without a time, when its message is gone:
    so whatever takes a message out of the queue frees the key, and no row can lock it for ever.
    """

    def __init__(self, tables: Tables, dialect: Dialect, messages: Messages) -> None:
        self._messages, self._dialect = messages, dialect
        self._locked = LockedKeys(dialect.hurry_s)
        self._inserts = sa.insert(tables.messages)
        keys, c, bind = tables.unique, tables.unique.c, sa.bindparam
        columns = ("unique_key", "task_id", "message", "until")
        self._add = Statement(lambda: dialect.insert_ignore(keys, columns))
        of_key = c.unique_key == bind("unique_key")
        alive = sa.select(tables.messages.c.id).where(tables.messages.c.id == c.message).scalar_subquery()
        self._holder = Statement(lambda: sa.select(c.task_id, c.message, c.until, alive).where(of_key))
        now = sa.select(c.unique_key).where(of_key).with_for_update(nowait=True)
        #: For databases whose INSERT would wait, and lock.
        self._lock_now = Statement(lambda: now) if dialect.insert_locks else None
        as_seen = sa.and_(of_key, c.task_id == bind("old_task"), c.message == bind("old_message"))
        values: dict[str, Any] = {name: bind(f"new_{name}") for name in ("task_id", "message", "until")}
        self._replace = Statement(lambda: keys.update().where(as_seen).values(values))
        of_task = sa.and_(of_key, c.task_id == bind("task"))
        self._note = Statement(lambda: keys.update().where(of_task).values(message=bind("row")))
        self._free = Statement(lambda: keys.delete().where(of_task))
        ids: sa.BindParameter[Any] = bind("ids", expanding=True)
        held = sa.select(c.unique_key, c.task_id, c.message).where(c.task_id.in_(ids), c.until.is_(None))
        self._held = Statement(lambda: held.order_by(c.unique_key))
        m = tables.messages.c
        not_begun = sa.select(m.id).where(m.id == bind("row"), m.state != _RUNNING).with_for_update()
        self._not_begun = Statement(lambda: not_begun)

    def insert(
        self, tx: Transaction, outgoing: Sequence[Outgoing], *, may_raise: bool = True
    ) -> list[Published]:
        """`Messages.insert` for messages some of which have a key; a Duplicate for each that is refused.

        Raises AlreadyQueued for one that wants it, unless `may_raise` is false, and KeyLocked for a key that
        another transaction takes just now.
        """
        holders = self._take_all(tx, outgoing)
        return [self._insert_one(tx, each, holders, may_raise) for each in outgoing]

    def _take_all(self, tx: Transaction, outgoing: Sequence[Outgoing]) -> dict[str, str | None]:
        """Take the keys of all of them; who holds it, by the id of each task that has one."""
        keyed = [each.message for each in outgoing if UNIQUE in each.message.headers]
        if not keyed:
            return {}
        with self._hurry(tx):
            return _in_order(keyed, lambda message: self._take_now(tx, message))

    def _take_now(self, tx: Transaction, message: Message) -> str | None:
        key = message.headers[UNIQUE]["key"]
        self._locked.check(key)
        with self._telling(key):
            return self._take(tx, message, lock=self._lock_now)

    @contextmanager
    def _hurry(self, tx: Transaction) -> Iterator[None]:
        self._dialect.hurry(tx)
        yield
        # Not after an error: the transaction is over then.
        self._dialect.calm_down(tx)

    @contextmanager
    def _telling(self, key: str) -> Iterator[None]:
        """Raise KeyLocked for what the database says of a row that another transaction has locked."""
        try:
            yield
        except Exception as error:
            if not self._dialect.is_locked(error):
                raise
            self._locked.add(key)
            raise KeyLocked(key) from error

    def _insert_one(
        self, tx: Transaction, outgoing: Outgoing, holders: Mapping[str, str | None], may_raise: bool
    ) -> Published:
        header = outgoing.message.headers.get(UNIQUE)
        if header is None:
            return self._messages.insert(tx, [outgoing])[0]
        holder = holders[outgoing.message.id]
        if holder is None:
            row, delivery = self._messages.insert_row(tx, outgoing, _clock.time())
            tx.run(self._note, unique_key=header["key"], task=outgoing.message.id, row=row)
            return delivery
        if not outgoing.may_drop:
            marked = replace(outgoing, message=_marked(outgoing.message, holder))
            return self._messages.insert(tx, [marked])[0]
        if may_raise and header.get("raise"):
            raise AlreadyQueued(header["key"], holder)
        return Duplicate(task_id=outgoing.message.id, holder=holder)

    def follow(
        self, tx: Transaction, settlement: Settlement, outgoing: Sequence[Outgoing]
    ) -> list[Published]:
        """Publish what follows a message that is settled; frees its key, unless its retry keeps it.

        Raises KeyLocked for a key that another transaction takes just now.
        """
        settled = settlement.delivery.message
        header = settled.headers.get(UNIQUE)
        again = None
        if header is not None and settlement.requeue_at is None:
            again = next((each for each in outgoing if _is_retry(each.message, settled)), None)
            if again is None and "for" not in header and "holder" not in header:
                self._change_own(tx, self._free, settled)
        holders = self._take_all(tx, [each for each in outgoing if each is not again])
        published: list[Published] = []
        for each in outgoing:
            if each is again:
                row, delivery = self._messages.insert_row(tx, each, _clock.time())
                # Its own, or, when its time is over, another's by now: a retry is never dropped.
                self._change_own(tx, self._note, settled, row=row)
                published.append(delivery)
            else:
                published.append(self._insert_one(tx, replace(each, may_drop=False), holders, False))
        return published

    def _change_own(self, tx: Transaction, statement: Statement, message: Message, **values: Any) -> None:
        """Change the row of a key while it is still that of `message`."""
        key = message.headers[UNIQUE]["key"]
        with self._hurry(tx) if "for" in message.headers[UNIQUE] else nullcontext(), self._telling(key):
            if self._lock_now is not None:
                found = tx.one(self._holder, unique_key=key)
                if found is None or found[0] != message.id:
                    return  # Another may just take it: to find that out by changing it is to wait.
                tx.one(self._lock_now, unique_key=key)
            tx.run(statement, unique_key=key, task=message.id, **values)

    def free(self, tx: Transaction, task_ids: Collection[str]) -> None:
        """Free the keys of tasks that were revoked, of those that have not begun."""
        for ids in chunks(task_ids, _MANY):
            for key, task_id, row in tx.rows(self._held, ids=ids):
                if tx.one(self._not_begun, row=row) is not None:
                    tx.run(self._free, unique_key=key, task=task_id)

    def insert_in(
        self,
        target: sa.Connection,
        outgoing: Sequence[Outgoing],
        committed: Callable[[Statement, dict[str, Any]], Any] | None,
    ) -> list[Duplicate]:
        """`insert` in the transaction of a caller. `committed` reads what others have committed.

        None: the caller's own statements see that.
        """
        callers = _Callers(target)
        keyed = [each.message for each in outgoing if UNIQUE in each.message.headers]
        holders = _in_order(keyed, lambda message: self._take(callers, message, committed))
        duplicates: list[Duplicate] = []
        for each in outgoing:
            header = each.message.headers.get(UNIQUE)
            holder = holders.get(each.message.id)
            if header is not None and holder is not None:
                if header.get("raise"):
                    raise AlreadyQueued(header["key"], holder)
                duplicates.append(Duplicate(task_id=each.message.id, holder=holder))
                continue
            values = row_of(Outgoing(message=each.message), _clock.time())[0]
            row = target.execute(self._inserts.values(values)).inserted_primary_key
            if header is not None and row is not None:
                callers.run(self._note, unique_key=header["key"], task=each.message.id, row=row[0])
        return duplicates

    def _take(
        self,
        tx: _Connection,
        message: Message,
        committed: Callable[[Statement, dict[str, Any]], Any] | None = None,
        lock: Statement | None = None,
    ) -> str | None:
        """Take the key of a message for it; None, or the id of the task that holds it.

        `lock` fails where another transaction has locked the key.
        """
        header = message.headers[UNIQUE]
        key, now = header["key"], _clock.time()
        until = now + header["for"] if "for" in header else None
        added = {"unique_key": key, "task_id": message.id, "message": 0, "until": until}
        new = {"new_task_id": message.id, "new_message": 0, "new_until": until}
        holder = ""
        for _ in range(_LOOKS):
            if self._dialect.insert_locks:
                look = {"unique_key": key}
                found = committed(self._holder, look) if committed else tx.one(self._holder, **look)
                if found is not None and _is_held(found, now):
                    return str(found[0])
            if lock is not None:
                tx.one(lock, unique_key=key)
            if tx.run(self._add, **added) == 1:
                return None
            found = committed(self._holder, {"unique_key": key}) if committed else None
            found = found or tx.one(self._holder, unique_key=key)
            if found is None:
                continue  # Freed since.
            holder = str(found[0])
            if _is_held(found, now):
                return holder
            if tx.run(self._replace, unique_key=key, old_task=holder, old_message=found[1], **new) == 1:
                return None
        # Somebody else was always first, so it is held; who was seen last may have gone meanwhile.
        return holder


def _is_held(found: Any, now: float) -> bool:
    _, _, until, alive = found
    return (alive is not None) if until is None else bool(until > now)


def _in_order(messages: Sequence[Message], take: Callable[[Message], str | None]) -> dict[str, str | None]:
    """What `take` says of each, by id; called by order of the keys, so that no two transactions deadlock.

    Of those with the same key the first is asked for; it holds it from then on.
    """
    holders: dict[str, str | None] = {}
    taken: dict[str, str] = {}
    for message in sorted(messages, key=lambda each: str(each.headers[UNIQUE]["key"])):
        key = message.headers[UNIQUE]["key"]
        holders[message.id] = taken[key] if key in taken else take(message)
        taken.setdefault(key, holders[message.id] or message.id)
    return holders


def _is_retry(message: Message, settled: Message) -> bool:
    header = message.headers.get(UNIQUE)
    return message.id == settled.id and header is not None and header["key"] == settled.headers[UNIQUE]["key"]


def _marked(message: Message, holder: str) -> Message:
    """`message` as one that is turned away when its turn comes, so that who waits for it learns of it."""
    header = {**message.headers[UNIQUE], "holder": holder}
    return replace(message, headers={**message.headers, UNIQUE: header})


class _Callers:
    """A connection of the caller's, with whatever driver it uses."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def run(self, statement: Statement, **parameters: Any) -> int:
        return int(self._execute(statement, parameters).rowcount)

    def one(self, statement: Statement, **parameters: Any) -> Any | None:
        return self._execute(statement, parameters).first()

    def _execute(self, statement: Statement, parameters: dict[str, Any]) -> sa.CursorResult[Any]:
        theirs = statement.compiled_for(self._connection.dialect)
        values = theirs.bind(parameters)
        return self._connection.exec_driver_sql(
            theirs.sql or "", tuple(values) if isinstance(values, list) else values
        )
