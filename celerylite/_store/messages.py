"""Messages in SQL: inserted, promoted, claimed, begun, removed. Each function runs in a given transaction."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

import sqlalchemy as sa
from kombu.utils import json as kombu_json

from celerylite import _clock
from celerylite._message import Message, header_texts, keep_texts
from celerylite._store import Claimed, CorruptRow, Delivery, MessageState, Outgoing, Waiting
from celerylite._store.dialect import Dialect
from celerylite._store.engine import Statement, Transaction, chunks
from celerylite._store.schema import Tables
from celerylite._store.unanswered import Proof
from celerylite.states import READY_STATES
from celerylite.utils._ids import uuid

__all__ = ("Messages", "NewRow", "new_token", "row_of", "token_owner")

#: How many come due in one transaction: a million at once must not stop everybody for seconds.
_PROMOTE = 1000
#: How many are purged in one transaction.
_PURGE = 5000
#: Seconds that clocks of hosts may differ by, where the end of a task is compared with its publication.
_SKEW_S = 1.0
#: Values in one IN; SQLite before 3.32 allows 999.
_MANY = 500

# In the SQL as numbers, not as binds: only then do the partial indexes apply.
_STATES: list[sa.ColumnClause[int]] = [sa.literal_column(str(int(state))) for state in MessageState]
_SCHEDULED, _READY, _CLAIMED, _RUNNING = _STATES

#: The columns of a new message, and the token if it is born claimed.
NewRow: TypeAlias = tuple[dict[str, Any], str | None]

_FREE: dict[str, Any] = {"owner": sa.null(), "token": sa.null()}


class Messages:
    """The table of messages."""

    def __init__(self, tables: Tables, dialect: Dialect) -> None:
        self.dialect = dialect
        self.table = tables.messages
        self._tables = tables
        self._publish_statements()
        self._promote_statements()
        self._claim_statements()
        self._held_statements()
        self._rescue_statements()
        self._list_statements()

    def _publish_statements(self) -> None:
        table, c, bind = self.table, self.table.c, sa.bindparam
        columns = [column.name for column in c if column.name != "id"]

        def insert() -> Any:
            statement = sa.insert(table).values({name: bind(name) for name in columns})
            return statement.returning(c.id) if self.dialect.insert_returns_id else statement.inline()

        self._insert = Statement(insert)
        self._insert_many = Statement(lambda: sa.insert(table).values({n: bind(n) for n in columns}).inline())
        of_row = sa.select(c.id).where(c.id == bind("row"), c.task_id == bind("task"))
        self._inserted = Statement(lambda: sa.union_all(of_row, *self._traces()))
        # Without the row: no index knows the tasks of all messages, but this is asked after an outage only.
        of_moment = sa.select(c.id).where(c.task_id == bind("task"), c.created_at == bind("created"))
        self._was_inserted = Statement(lambda: sa.union_all(of_moment, *self._traces()))

    def _traces(self) -> list[sa.Select[Any]]:
        # Others may have taken the message, run it and removed it since.
        runs, results, bind = self._tables.runs.c, self._tables.results.c, sa.bindparam
        ended = results.status.in_([sa.literal_column(f"'{state}'") for state in sorted(READY_STATES)])
        return [
            sa.select(runs.id).where(runs.task_id == bind("task"), runs.finished_at >= bind("since")),
            sa.select(results.id).where(
                results.task_id == bind("task"), ended, results.date_done >= bind("since_date")
            ),
        ]

    def _promote_statements(self) -> None:
        table, c = self.table, self.table.c
        due = sa.select(c.id).where(c.state == _SCHEDULED, c.due_at <= sa.bindparam("now")).order_by(c.due_at)
        self._due = Statement(lambda: self.dialect.skip_locked(due.limit(_PROMOTE)))
        self._promote = Statement(
            lambda: table.update().where(_ids(c), c.state == _SCHEDULED).values(state=_READY)
        )
        soonest = sa.select(sa.func.min(c.due_at)).where(c.state == _SCHEDULED)
        self._next_due = Statement(lambda: soonest)
        ready = sa.case((sa.exists().where(c.state == _READY), 1), else_=0)
        self._peek = Statement(lambda: sa.select(ready, soonest.scalar_subquery()))

    def _claim_statements(self) -> None:
        table, c, bind = self.table, self.table.c, sa.bindparam
        following = sa.select(c.queue).where(c.state == _READY, c.queue > bind("after")).order_by(c.queue)
        self._queue_after = Statement(lambda: following.limit(1))
        ready = sa.select(*self._read()).where(c.state == _READY, c.queue == bind("queue"))
        ready = ready.order_by(c.turn, c.id).limit(bind("limit"))
        self._list_ready = Statement(lambda: ready)
        self._ready = Statement(lambda: self.dialect.skip_locked(ready))
        of_names = c.name.in_(bind("names", expanding=True))
        self._ready_of = Statement(lambda: self.dialect.skip_locked(ready.where(of_names)))
        named = c.task_id.in_(bind("ids", expanding=True))
        scheduled = sa.select(*self._read()).where(c.state == _SCHEDULED, named)
        self._scheduled = Statement(lambda: self.dialect.skip_locked(scheduled))
        taken: dict[str, Any] = {
            "state": _CLAIMED,
            "owner": bind("new_owner"),
            "token": bind("new_token"),
        }
        self._take = Statement(
            lambda: table.update().where(_ids(c)).values(deliveries=c.deliveries + 1, **taken)
        )
        self._drop = Statement(lambda: table.delete().where(_ids(c)))

    def _held_statements(self) -> None:
        table, c, bind = self.table, self.table.c, sa.bindparam
        ours = sa.and_(_ids(c), c.token == bind("held"))
        self._begin = Statement(lambda: table.update().where(ours).values(state=_RUNNING))
        self._held = Statement(lambda: sa.select(c.id).where(ours))
        self._give_back = Statement(
            lambda: table.update().where(ours).values(state=_READY, deliveries=c.deliveries - 1, **_FREE)
        )
        mine = sa.and_(c.id == bind("row"), c.token == bind("held"))
        self._remove = Statement(lambda: table.delete().where(mine))
        self._begin_one = Statement(lambda: table.update().where(mine).values(state=_RUNNING))
        self._still_held = Statement(lambda: sa.select(c.id).where(mine))
        # By its owner too: that has an index.
        claimed = sa.and_(c.state > _READY, c.owner == bind("claimed_by"), c.token == bind("held"))
        self._row_held = Statement(lambda: sa.select(c.id).where(claimed))
        self._exists = Statement(lambda: sa.select(c.id).where(c.id == bind("row")))
        again: dict[str, Any] = {"state": bind("new_state"), "due_at": bind("new_due_at")}
        self._requeue = Statement(lambda: table.update().where(mine).values(**again, **_FREE))

    def _rescue_statements(self) -> None:
        table, c = self.table, self.table.c
        of_owner = sa.and_(c.owner == sa.bindparam("dead"), c.state > _READY)
        self._unstarted = Statement(
            lambda: (
                table.update()
                .where(of_owner, c.state == _CLAIMED)
                .values(state=_READY, deliveries=c.deliveries - 1, **_FREE)
            )
        )
        self._started = Statement(
            lambda: sa.select(*self._read()).where(of_owner, c.state == _RUNNING).order_by(c.id)
        )
        self._transfer = Statement(
            lambda: (
                table.update()
                .where(of_owner, c.state == _RUNNING)
                .values(owner=sa.bindparam("new_owner"), token=sa.bindparam("new_token"))
            )
        )
        mine = c.name.in_(sa.bindparam("names", expanding=True))
        self._started_of = Statement(
            lambda: sa.select(*self._read()).where(of_owner, c.state == _RUNNING, mine).order_by(c.id)
        )
        self._transfer_of = Statement(
            lambda: (
                table.update()
                .where(of_owner, c.state == _RUNNING, mine)
                .values(owner=sa.bindparam("new_owner"), token=sa.bindparam("new_token"))
            )
        )
        self._owned = Statement(lambda: sa.select(c.id).where(of_owner).limit(1))
        named = c.task_id.in_(sa.bindparam("ids", expanding=True))
        # Above READY first: that is what the index of owned messages is about.
        self._running = Statement(
            lambda: sa.select(c.task_id).where(c.state > _READY, c.state == _RUNNING, named)
        )
        self._owners = Statement(lambda: sa.select(c.owner).where(c.state > _READY).distinct())

    def _list_statements(self) -> None:
        c = self.table.c
        limit: sa.BindParameter[int] = sa.bindparam("limit")
        self._list_scheduled = Statement(
            lambda: (
                sa.select(*self._read()).where(c.state == _SCHEDULED).order_by(c.due_at, c.id).limit(limit)
            )
        )
        self._lengths = Statement(
            lambda: sa.select(c.queue, sa.func.count()).where(c.state == _READY).group_by(c.queue)
        )
        of_names = c.name.in_(sa.bindparam("names", expanding=True))
        self._lengths_of = Statement(
            lambda: sa.select(c.queue, sa.func.count()).where(c.state == _READY, of_names).group_by(c.queue)
        )
        self._states = Statement(lambda: sa.select(c.state, sa.func.count()).group_by(c.state))
        unowned = sa.or_(c.state == _SCHEDULED, c.state == _READY)
        # By key, and on from the last one: rows that were deleted are not looked at again.
        after = sa.select(c.id).where(c.id > sa.bindparam("after"), unowned).order_by(c.id).limit(_PURGE)
        queues = c.queue.in_(sa.bindparam("queues", expanding=True))
        self._purgeable = Statement(lambda: self.dialect.skip_locked(after))
        self._purgeable_of = Statement(lambda: self.dialect.skip_locked(after.where(queues)))
        self._last = Statement(lambda: sa.select(sa.func.max(c.id)))
        # One part for each partial index, as no index knows the ids of all messages; in one statement,
        # or a message that goes from one state to another meanwhile might be seen in neither.
        of_task = c.task_id == sa.bindparam("task")
        states = (c.state == _SCHEDULED, c.state > _READY, c.state == _READY)
        self._of_task = Statement(
            lambda: sa.union_all(*(sa.select(c.id).where(of_task, state) for state in states)).limit(1)
        )

    def _read(self) -> list[Any]:
        c = self.table.c
        return [
            c.id, c.task_id, c.name, c.queue, c.turn, c.due_at, c.expires_at, c.deliveries,
            c.content_type, c.content_encoding, c.headers, c.properties, c.body_is_text, c.body, c.state,
        ]  # fmt: skip

    # -- publishing ---------------------------------------------------------------------------------

    def insert(self, tx: Transaction, outgoing: Sequence[Outgoing]) -> list[Delivery | None]:
        """Insert all; a Delivery for those with a claim."""
        now = _clock.time()
        return self.insert_rows(tx, outgoing, [row_of(each, now) for each in outgoing])

    def insert_rows(
        self, tx: Transaction, outgoing: Sequence[Outgoing], rows: Sequence[NewRow]
    ) -> list[Delivery | None]:
        """As `insert`, of messages that `row_of` has made into rows."""
        if len(outgoing) > 1 and not any(each.claim for each in outgoing):
            # The last one alone, for its id is the proof that the transaction was committed.
            tx.run_many(self._insert_many, [values for values, _ in rows[:-1]])
            self._insert_one(tx, outgoing[-1], rows[-1])
            return [None] * len(outgoing)
        return [self._insert_one(tx, each, row)[1] for each, row in zip(outgoing, rows, strict=True)]

    def insert_row(self, tx: Transaction, outgoing: Outgoing, now: float) -> tuple[int, Delivery | None]:
        """Insert one; its row, and a Delivery if it has a claim."""
        return self._insert_one(tx, outgoing, row_of(outgoing, now))

    def _insert_one(self, tx: Transaction, outgoing: Outgoing, new: NewRow) -> tuple[int, Delivery | None]:
        values, token = new
        row = tx.insert(self._insert, values)
        if tx.proof is None and self.dialect.may_lose_answers:
            look = {"row": row, **_traces_of(values)}
            tx.proof = Proof(statement=self._inserted, parameters=look, found=True)
        if token is None:
            tx.changes.messages = True
            return row, None
        running = values["state"] == MessageState.RUNNING
        delivery = Delivery(row=row, token=token, message=outgoing.message, deliveries=1, running=running)
        return row, delivery

    def inserted_with(self, tx: Transaction, outgoing: Outgoing, token: str) -> Delivery | None:
        """The delivery of a message that was inserted claimed with this token, if it was."""
        assert outgoing.claim is not None
        row = tx.scalar(self._row_held, claimed_by=outgoing.claim.owner, held=token)
        if row is None:
            return None
        running = outgoing.claim.running
        return Delivery(row=row, token=token, message=outgoing.message, deliveries=1, running=running)

    def was_inserted(self, tx: Transaction, values: dict[str, Any]) -> bool:
        """Whether these values are a message, or were one that has been run since."""
        look = {"created": values["created_at"], **_traces_of(values)}
        return tx.one(self._was_inserted, **look) is not None

    def is_outstanding(self, tx: Transaction, task_id: str) -> bool:
        """Whether a message of the task waits, runs, or waits for a retry.

        Reads an index, except for what is READY: with a long queue that is all of it.
        """
        return tx.one(self._of_task, task=task_id) is not None

    # -- claiming -----------------------------------------------------------------------------------

    def peek(self, tx: Transaction) -> tuple[bool, float | None]:
        """Whether something is READY, and when the next SCHEDULED one is due."""
        ready, next_due = tx.rows(self._peek)[0]
        return bool(ready), next_due

    def promote(self, tx: Transaction) -> bool:
        """Make READY what has come due, up to a limit; whether there is more of it."""
        due = [row[0] for row in tx.rows(self._due, now=_clock.time())]
        for ids in chunks(due, _MANY):
            tx.run(self._promote, ids=ids)
        # Others may want what this process does not take.
        tx.changes.messages = tx.changes.messages or bool(due)
        return len(due) == _PROMOTE

    def claim(
        self,
        tx: Transaction,
        owner: str,
        queues: Collection[str] | None,
        limit: int,
        names: Collection[str] | None = None,
    ) -> Claimed:
        """Promote, then take up to `limit`; see `Store.claim`."""
        more_due = self.promote(tx)
        found: list[Any] = []
        for queue in self._ready_queues(tx) if queues is None else list(dict.fromkeys(queues)):
            if names is None:
                found += tx.rows(self._ready, queue=queue, limit=limit)
            else:
                found += tx.rows(self._ready_of, queue=queue, limit=limit, names=sorted(names))
        found.sort(key=_turn)
        deliveries, corrupt = self._own(tx, found[:limit], owner)
        return Claimed(
            deliveries=tuple(deliveries),
            next_due_at=tx.scalar(self._next_due),
            more=more_due or len(found) >= limit,
            corrupt=tuple(corrupt),
        )

    def claim_scheduled(self, tx: Transaction, owner: str, task_ids: Collection[str]) -> Claimed:
        found: list[Any] = []
        for ids in chunks(task_ids, _MANY):
            found += tx.rows(self._scheduled, ids=ids)
        deliveries, corrupt = self._own(tx, found, owner)
        return Claimed(deliveries=tuple(deliveries), corrupt=tuple(corrupt))

    def _ready_queues(self, tx: Transaction) -> list[str]:
        # One index probe per queue; DISTINCT would read every waiting message.
        names: list[str] = []
        after = ""
        while (row := tx.one(self._queue_after, after=after)) is not None:
            after = row[0]
            names.append(after)
        return names

    def _own(
        self, tx: Transaction, rows: Sequence[Any], owner: str
    ) -> tuple[list[Delivery], list[CorruptRow]]:
        token = new_token(owner)
        deliveries, corrupt = read_all(rows, token, 1)
        self.take(tx, [each.row for each in deliveries], owner, token)
        self.drop(tx, [each.row for each in corrupt])
        self._prove_owned(tx, deliveries)
        return deliveries, corrupt

    def _prove_owned(self, tx: Transaction, deliveries: Sequence[Delivery]) -> None:
        # A claim that is made twice because its answer was lost leaves the first one's messages to nobody.
        if deliveries:
            look = {"row": deliveries[0].row, "held": deliveries[0].token}
            tx.proof = Proof(statement=self._still_held, parameters=look, found=True)

    def take(self, tx: Transaction, rows: Sequence[int], owner: str, token: str) -> None:
        for ids in chunks(rows, _MANY):
            tx.run(self._take, ids=ids, new_owner=owner, new_token=token)

    def drop(self, tx: Transaction, rows: Sequence[int]) -> None:
        for ids in chunks(rows, _MANY):
            tx.run(self._drop, ids=ids)

    # -- owned --------------------------------------------------------------------------------------

    def begin(self, tx: Transaction, deliveries: Iterable[Delivery]) -> set[int]:
        """Mark RUNNING; the rows that are still held."""
        return self._if_held(tx, deliveries)

    def give_back(self, tx: Transaction, deliveries: Iterable[Delivery]) -> None:
        for token, rows in _by_token(deliveries).items():
            for ids in chunks(rows, _MANY):
                tx.run(self._give_back, ids=ids, held=token)
        tx.changes.messages = True

    def remove(self, tx: Transaction, *deliveries: Delivery) -> bool:
        """Delete messages that are settled; False if one is not held any more: then roll back."""
        if self.dialect.may_lose_answers:
            # By its id alone: a row that another process has taken over is no sign of our commit.
            tx.proof = Proof(statement=self._exists, parameters={"row": deliveries[0].row}, found=False)
        # In the order of rows, as everybody locks them; one by one, as a list might lock others between them.
        held = [{"row": each.row, "held": each.token} for each in sorted(deliveries, key=_row)]
        return tx.run_many(self._remove, held) == len(held)

    def holds(self, tx: Transaction, delivery: Delivery) -> bool:
        """Whether the delivery is still its owner's."""
        return tx.one(self._still_held, row=delivery.row, held=delivery.token) is not None

    def requeue(self, tx: Transaction, delivery: Delivery, at: float) -> bool:
        """READY or SCHEDULED again; False if it is not held any more."""
        now = _clock.time()
        state = MessageState.READY if at <= now else MessageState.SCHEDULED
        tx.changes.messages = True
        values = {"new_state": int(state), "new_due_at": None if at <= now else at}
        look = {"row": delivery.row, "held": delivery.token}
        tx.proof = Proof(statement=self._still_held, parameters=look, found=False)
        return tx.run(self._requeue, **look, **values) == 1

    def _if_held(self, tx: Transaction, deliveries: Iterable[Delivery]) -> set[int]:
        deliveries = list(deliveries)
        if len(deliveries) == 1:
            (one,) = deliveries
            return {one.row} if tx.run(self._begin_one, row=one.row, held=one.token) == 1 else set()
        held: set[int] = set()
        for token, rows in _by_token(deliveries).items():
            for ids in chunks(rows, _MANY):
                if tx.run(self._begin, ids=ids, held=token) == len(ids):
                    held.update(ids)
                else:
                    held.update(row[0] for row in tx.rows(self._held, ids=ids, held=token))
        return held

    # -- rescue -------------------------------------------------------------------------------------

    def owners(self, tx: Transaction) -> set[str]:
        """Everybody who owns a message."""
        return {row[0] for row in tx.rows(self._owners)}

    def running(self, tx: Transaction, task_ids: Iterable[str]) -> set[str]:
        """Those of the tasks that somebody runs."""
        return {row[0] for ids in chunks(task_ids, _MANY) for row in tx.rows(self._running, ids=ids)}

    def owns_any(self, tx: Transaction, owner: str) -> bool:
        """Whether a message is still `owner`'s."""
        return tx.one(self._owned, dead=owner) is not None

    def inherit(
        self, tx: Transaction, dead: str, owner: str, names: Collection[str] | None = None
    ) -> Claimed:
        """Free what `dead` had not started, transfer what it had (of tasks called `names`)."""
        if tx.run(self._unstarted, dead=dead):
            tx.changes.messages = True
        token = new_token(owner)
        if names is None:
            deliveries, corrupt = read_all(tx.rows(self._started, dead=dead), token, 0)
            tx.run(self._transfer, dead=dead, new_owner=owner, new_token=token)
        else:
            listed = sorted(names)
            deliveries, corrupt = read_all(tx.rows(self._started_of, dead=dead, names=listed), token, 0)
            tx.run(self._transfer_of, dead=dead, new_owner=owner, new_token=token, names=listed)
        self.drop(tx, [each.row for each in corrupt])
        self._prove_owned(tx, deliveries)
        return Claimed(deliveries=tuple(_started(each) for each in deliveries), corrupt=tuple(corrupt))

    # -- looking ------------------------------------------------------------------------------------

    def next_due(self, tx: Transaction) -> float | None:
        due: float | None = tx.scalar(self._next_due)
        return due

    def lengths(self, tx: Transaction, names: Collection[str] | None = None) -> dict[str, int]:
        if names is None:
            rows = tx.rows(self._lengths)
        else:
            rows = tx.rows(self._lengths_of, names=sorted(names))
        return {queue: int(count) for queue, count in rows}

    def states(self, tx: Transaction) -> dict[MessageState, int]:
        return {MessageState(state): int(count) for state, count in tx.rows(self._states)}

    def waiting(self, tx: Transaction, limit: int) -> list[Waiting]:
        """Messages that nobody owns; unreadable ones are left out."""
        rows: list[Any] = []
        for name in self._ready_queues(tx):
            rows += tx.rows(self._list_ready, queue=name, limit=limit)
        rows = sorted(rows, key=_turn)[:limit]
        if len(rows) < limit:
            rows += tx.rows(self._list_scheduled, limit=limit - len(rows))
        states = {row[0]: MessageState(row[14]) for row in rows}
        deliveries, _ = read_all(rows, "", 0)
        return [
            Waiting(row=each.row, state=states[each.row], message=each.message, deliveries=each.deliveries)
            for each in deliveries
        ]

    def purge(self, tx: Transaction, queues: Collection[str] | None, after: int) -> list[int]:
        """Delete the next ones behind row `after` that nobody owns; their rows."""
        if queues is None:
            rows = [row[0] for row in tx.rows(self._purgeable, after=after)]
        else:
            rows = [row[0] for row in tx.rows(self._purgeable_of, after=after, queues=list(queues))]
        self.drop(tx, rows)
        return rows

    def last(self, tx: Transaction) -> int:
        return int(tx.scalar(self._last) or 0)


def _ids(columns: Any) -> sa.ColumnElement[bool]:
    condition: sa.ColumnElement[bool] = columns.id.in_(sa.bindparam("ids", expanding=True))
    return condition


def _traces_of(values: dict[str, Any]) -> dict[str, Any]:
    since = values["created_at"] - _SKEW_S
    date = datetime.fromtimestamp(since, UTC).replace(tzinfo=None)
    return {"task": values["task_id"], "since": since, "since_date": date}


def _row(delivery: Delivery) -> int:
    return delivery.row


def _turn(row: Any) -> tuple[int, int]:
    return row[4], row[0]


def new_token(owner: str) -> str:
    """Names one claim of `owner`; no two are the same, not even after a restart under the same name."""
    return f"{owner}/{uuid()}"


def token_owner(token: str) -> str:
    """Whose claim `new_token` named."""
    return token.rpartition("/")[0]


def row_of(outgoing: Outgoing, now: float) -> NewRow:
    """A new message as a row."""
    message, claim = outgoing.message, outgoing.claim
    if message.due_at is not None and message.due_at > now:
        state, claim = MessageState.SCHEDULED, None
    elif claim is None:
        state = MessageState.READY
    else:
        state = MessageState.RUNNING if claim.running else MessageState.CLAIMED
    token = None if claim is None else new_token(claim.owner)
    text = isinstance(message.body, str)
    headers, properties = header_texts(message)
    values = {
        "task_id": message.id,
        "name": message.name,
        "queue": message.queue,
        "turn": -message.priority,
        "state": int(state),
        "due_at": message.due_at,
        "expires_at": message.expires_at,
        "owner": None if claim is None else claim.owner,
        "token": token,
        "deliveries": 0 if claim is None else 1,
        "created_at": now,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
        "headers": headers,
        "properties": properties,
        "body_is_text": int(text),
        # surrogatepass: a str that JSON accepts is one that we give back.
        "body": message.body.encode("utf-8", "surrogatepass")
        if isinstance(message.body, str)
        else message.body,
    }
    return values, token


def read_all(rows: Iterable[Any], token: str, count: int) -> tuple[list[Delivery], list[CorruptRow]]:
    """Rows as deliveries, `count` added to how often each was delivered; and those that cannot be read."""
    deliveries: list[Delivery] = []
    corrupt: list[CorruptRow] = []
    for row in rows:
        try:
            deliveries.append(_delivery(row, token, count))
        except (ValueError, TypeError, AttributeError) as error:
            task_id = row[1] or None
            corrupt.append(CorruptRow(row=row[0], task_id=task_id, reason=f"{type(error).__name__}: {error}"))
    return deliveries, corrupt


def _delivery(row: Any, token: str, count: int) -> Delivery:
    body = row[13]
    message = Message(
        id=row[1],
        name=row[2],
        queue=row[3],
        headers=load(row[10]),
        properties=load(row[11]),
        body=bytes(body).decode("utf-8", "surrogatepass") if row[12] else bytes(body),
        content_type=row[8],
        content_encoding=row[9],
        priority=-row[4],
        due_at=row[5],
        expires_at=row[6],
    )
    keep_texts(message, row[10], row[11])
    return Delivery(row=row[0], token=token, message=message, deliveries=row[7] + count)


def _started(delivery: Delivery) -> Delivery:
    return Delivery(
        row=delivery.row,
        token=delivery.token,
        message=delivery.message,
        deliveries=delivery.deliveries,
        running=True,
    )


def _by_token(deliveries: Iterable[Delivery]) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for each in deliveries:
        rows.setdefault(each.token, []).append(each.row)
    return rows


def load(text: str) -> dict[str, Any]:
    """What `header_texts` wrote. Raises ValueError for anything that is not a JSON object."""
    decode: Callable[[str], Any] = kombu_json.loads if "__type__" in text else json.loads
    value = decode(text)
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value
