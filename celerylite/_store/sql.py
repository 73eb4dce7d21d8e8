"""The store over SQLAlchemy: each method is a transaction put together from the tables' functions."""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from operator import attrgetter
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from kombu.exceptions import OperationalError

from celerylite import _clock
from celerylite._call_keys import UNIQUE
from celerylite._store import (
    ChordPart,
    Claimed,
    Delivery,
    Done,
    Duplicate,
    GroupRow,
    Letter,
    Limit,
    MessageState,
    Outgoing,
    Published,
    ResultRow,
    RunRow,
    Settlement,
    Waiting,
    Watch,
    WorkerRow,
)
from celerylite._store.behind import PublishBehind
from celerylite._store.changes import Changes, payloads
from celerylite._store.chords import Chords
from celerylite._store.control import Control
from celerylite._store.engine import Database, Statement, Transaction
from celerylite._store.keywait import KeyWait
from celerylite._store.messages import Messages, row_of, token_owner
from celerylite._store.periodic import Periodic
from celerylite._store.places import Places
from celerylite._store.prune import Pruning
from celerylite._store.results import Results
from celerylite._store.scheduling import Scheduling
from celerylite._store.schema import Tables
from celerylite._store.unique import Unique, has_key
from celerylite._store.wakeup import Wakeup
from celerylite._store.workers import Workers
from celerylite._store.works import BeginningOne, Inserting, InsertingOne, Settling, is_one_claimed
from celerylite._store.writer import Work, Writer
from celerylite.exceptions import ClaimLost, ImproperlyConfigured

__all__ = ("SqlStore", "open_store")

T = TypeVar("T")


def open_store(
    url: str,
    *,
    durability: str = "normal",
    lease: float = 20.0,
    publish_timeout: float = 4.0,
    window: float = 0.001,
    table_names: Mapping[str, str] | None = None,
    table_schemas: Mapping[str, str] | None = None,
    engine_options: Mapping[str, Any] | None = None,
    engine_callback: Callable[[Any], Any] | None = None,
) -> SqlStore:
    """See `celerylite._store.open_store`."""
    database = Database(
        url,
        durability=durability,
        patience_s=publish_timeout,
        engine_options=engine_options,
        engine_callback=engine_callback,
    )
    tables = Tables(database.engine.dialect.name, table_names, table_schemas)
    try:
        database.prepare(tables)
        return SqlStore(database, tables, lease, window)
    except BaseException as error:
        database.close()
        # SQLite finds out at the first statement, some way below.
        if "file is not a database" not in str(error):
            raise
        raise ImproperlyConfigured(
            f"database {database.url.database!r}: expected an SQLite file, got another: {error}; "
            "name another file with result_backend or CELERYLITE_DATABASE"
        ) from error


_open_stores: weakref.WeakSet[SqlStore] = weakref.WeakSet()
#: Those that came to rest for the fork that is under way.
_resting: list[SqlStore] = []


class SqlStore(Scheduling):
    """SQLite, PostgreSQL, MySQL and MariaDB behind one class."""

    def __init__(self, database: Database, tables: Tables, lease_s: float, window_s: float) -> None:
        dialect = database.dialect
        self.database, self.tables, self.lease_s = database, tables, lease_s
        self._messages = Messages(tables, dialect)
        self._unique = Unique(tables, dialect, self._messages)
        self._places = Places(tables, dialect)
        self._results = Results(tables, dialect)
        self._chords = Chords(tables, dialect)
        self._workers = Workers(tables, dialect)
        self._periodic = Periodic(tables, dialect)
        self._control = Control(tables, dialect)
        self._pruning = Pruning(tables, dialect)
        self._wakeup = Wakeup(database, self._look)
        self._writer = Writer(database, self._wakeup.announce, window_s, self._run_together)
        self._wakeup.writer = self._writer
        self._key_wait = KeyWait(database.patience_s)
        #: Whether a single statement goes without BEGIN and COMMIT: on a server each of them is a trip.
        self._commits_alone = not dialect.single_writer
        #: What settlements published whose fate is not known, by row and token of the settled delivery.
        self._unsure: dict[tuple[int, str], list[Delivery | None]] = {}
        #: What was claimed or rescued for whom, by transactions whose COMMIT may have arrived unanswered.
        self._unanswered: dict[tuple[str, str], list[Sequence[Delivery]]] = {}
        #: The last claim left messages behind, for the next one to take.
        self._left_some = False
        self._pid = os.getpid()
        _open_stores.add(self)

    # -- publishing ---------------------------------------------------------------------------------

    def publish(self, outgoing: Sequence[Outgoing]) -> list[Published]:
        work = self._inserting(outgoing)
        published = self._key_wait.run(lambda: self._writer.run(work, takes_along=False))
        # Before the caller can run them. Not for the other ways to publish: who uses them waits on a loop.
        self._wakeup.expect(each.message.id for each in published if isinstance(each, Delivery))
        return published

    def publish_soon(self, outgoing: Sequence[Outgoing], done: Done[list[Published]]) -> None:
        try:
            work = self._inserting(outgoing)
        except Exception as error:
            done(None, error)
        else:
            self._key_wait.run_soon(functools.partial(self._writer.run_soon, work), done)

    def publish_later(self, outgoing: Sequence[Outgoing], done: Done[list[Published]]) -> None:
        PublishBehind(self._writer, self._insert, outgoing, done).begin()

    def _inserting(self, outgoing: Sequence[Outgoing]) -> Work[list[Published]]:
        if has_key(outgoing):
            return functools.partial(self._insert, outgoing=outgoing)
        if self._commits_alone and is_one_claimed(outgoing):
            return InsertingOne(self._messages, outgoing)
        return Inserting(self._messages, outgoing)

    def _insert(
        self, tx: Transaction, outgoing: Sequence[Outgoing], may_raise: bool = True
    ) -> list[Published]:
        if has_key(outgoing):
            return self._unique.insert(tx, outgoing, may_raise=may_raise)
        return list(self._messages.insert(tx, outgoing))

    def publish_in(self, connection: Any, outgoing: Sequence[Outgoing]) -> list[Duplicate]:
        target = connection if isinstance(connection, sa.Connection) else connection.connection()
        duplicates: list[Duplicate] = []
        if has_key(outgoing):
            duplicates = self._unique.insert_in(target, outgoing, self._committed())
        else:
            now = _clock.time()
            rows = [row_of(Outgoing(message=each.message), now)[0] for each in outgoing]
            target.execute(sa.insert(self.tables.messages), rows)
        self._wake_after(target)
        return duplicates

    def _committed(self) -> Callable[[Statement, dict[str, Any]], Any] | None:
        # MySQL's transactions do not see by default what was committed since they began.
        if self.database.dialect.name != "mysql":
            return None
        return lambda statement, parameters: self.database.read(lambda tx: tx.one(statement, **parameters))

    def _wake_after(self, target: sa.Connection) -> None:
        if self.database.dialect.notifies:
            # Without a sender: everybody hears it, we too, once the caller has committed.
            note = payloads(Changes(messages=True))["messages"]
            target.execute(sa.select(sa.func.pg_notify(self.database.dialect.channel, note)))
        else:
            sa.event.listen(target, "commit", lambda _: self._wakeup.hurry(), once=True)

    # -- the life of a delivery ---------------------------------------------------------------------

    def claim(
        self,
        owner: str,
        queues: Collection[str] | None,
        limit: int,
        names: Collection[str] | None = None,
    ) -> Claimed:
        if found := self._take_up("claim", owner):
            return Claimed(deliveries=tuple(found), next_due_at=_clock.time())
        # Known for one claim only: after one that failed the next looks, and does not queue for the lock.
        looks, self._left_some = not self._left_some, False
        if looks:
            # Most looks find nothing: those shall not queue for the write lock.
            ready, next_due = self.database.read(self._messages.peek)
            if not ready and (next_due is None or next_due > _clock.time()):
                return Claimed(next_due_at=next_due)
        claimed = self._take(
            ("claim", owner),
            lambda tx: self._claim(tx, owner, queues, limit, names),
            lambda claimed: claimed.deliveries,
        )
        self._left_some = claimed.more
        return claimed

    def claim_scheduled(self, owner: str, task_ids: Collection[str]) -> list[Delivery]:
        claimed = self._take(
            ("claim", owner),
            lambda tx: self._claim_scheduled(tx, owner, task_ids),
            lambda claimed: claimed.deliveries,
        )
        return list(claimed.deliveries)

    def _take(
        self,
        key: tuple[str, str],
        work: Callable[[Transaction], T],
        taken_by: Callable[[T], Sequence[Delivery]],
    ) -> T:
        """Commit `work`; remember what it took if nobody can say whether it was committed."""
        taken: Sequence[Delivery] = ()

        def noted(tx: Transaction) -> T:
            nonlocal taken
            taken = ()
            result = work(tx)
            taken = taken_by(result)
            return result

        try:
            return self._writer.run(noted)
        except OperationalError:
            if taken:
                self._unanswered.setdefault(key, []).append(taken)
            raise

    def _take_up(self, what: str, owner: str) -> list[Delivery]:
        """What was taken before an outage after all: while its owner lives, nobody else would run it."""
        found: list[Delivery] = []
        for taken in self._unanswered.get((what, owner), ()):
            found += self.database.read(
                lambda tx, taken=taken: [each for each in taken if self._messages.holds(tx, each)]  # type: ignore[misc]
            )
        self._unanswered.pop((what, owner), None)
        return found

    def begin(
        self,
        deliveries: Sequence[Delivery],
        results: Sequence[ResultRow] = (),
        limits: Mapping[int, Limit] | None = None,
    ) -> set[int]:
        work: Work[set[int]] = functools.partial(
            self._begin, deliveries=deliveries, results=results, limits=limits
        )
        if self._commits_alone and len(deliveries) == 1 and not results and not limits:
            work = BeginningOne(work)
        begun = self._writer.run(work)
        self._stop_expecting(*(each for each in deliveries if each.row not in begun))
        return begun

    def settle(self, settlement: Settlement) -> list[Delivery | None]:
        self._stop_expecting(settlement.delivery)
        attempt = Settling(self._settle_all, settlement)
        earlier = self._unsure.get(attempt.key, [])
        try:
            try:
                result = self._key_wait.run(lambda: self._writer.run(attempt))
            except ClaimLost:
                # The COMMIT of a try before may have arrived after it was looked for.
                result = attempt.published or earlier
                if not self._hold_any(result):
                    self._unsure.pop(attempt.key, None)
                    raise
        except OperationalError:
            # The last COMMIT may have arrived, and what follows be ours already: the next try has to know.
            self._unsure[attempt.key] = attempt.published or earlier
            raise
        self._unsure.pop(attempt.key, None)
        return result

    def settle_later(
        self, settlement: Settlement, done: Done[list[Delivery | None]], *, urgent: bool = False
    ) -> None:
        self._stop_expecting(settlement.delivery)
        attempt = Settling(self._settle_all, settlement)

        def over(result: list[Delivery | None] | None, error: BaseException | None) -> None:
            if attempt.published and isinstance(error, OperationalError | ClaimLost):
                self._unsure[attempt.key] = attempt.published
            done(result, error)

        self._writer.run_later(attempt, over)
        if urgent or any(self._wakeup.is_watched(row.task_id) for row in settlement.results):
            self._writer.nudge()

    def _stop_expecting(self, *deliveries: Delivery) -> None:
        # Before the commit: who begins to watch before this is told by it, who comes later looks.
        self._wakeup.stop_expecting(each.message.id for each in deliveries)

    def flush(self) -> None:
        self._writer.flush()

    def rest(self) -> None:
        self._writer.rest()

    def _hold_any(self, deliveries: Sequence[Delivery | None]) -> bool:
        ours = [each for each in deliveries if each is not None]
        return bool(ours) and self.database.read(lambda tx: self._messages.holds(tx, ours[0]))

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        if deliveries:
            self._stop_expecting(*deliveries)
            self._writer.run(lambda tx: self._messages.give_back(tx, deliveries))

    def _claim(
        self,
        tx: Transaction,
        owner: str,
        queues: Collection[str] | None,
        limit: int,
        names: Collection[str] | None,
    ) -> Claimed:
        claimed = self._messages.claim(tx, owner, queues, limit, names)
        self._results.save_corrupt(tx, claimed.corrupt)
        return claimed

    def _claim_scheduled(self, tx: Transaction, owner: str, task_ids: Collection[str]) -> Claimed:
        claimed = self._messages.claim_scheduled(tx, owner, task_ids)
        self._results.save_corrupt(tx, claimed.corrupt)
        return claimed

    def _begin(
        self,
        tx: Transaction,
        deliveries: Sequence[Delivery],
        results: Sequence[ResultRow],
        limits: Mapping[int, Limit] | None,
    ) -> set[int]:
        held = self._messages.begin(tx, deliveries)
        lost = {each.message.id for each in deliveries if each.row not in held}
        self._results.save(tx, *(row for row in results if row.task_id not in lost))
        for delivery in deliveries:
            limit = limits.get(delivery.row) if limits else None
            if limit is not None:
                # It takes what finds no place out of `held`, before this transaction is committed.
                tx.defer(limit.key, functools.partial(self._places.take, tx, delivery, limit, held))
        return held

    def _run_together(self, tx: Transaction, works: Sequence[Work[Any]]) -> list[Any]:
        """Do the works of several callers; settlements, first, and inserts write each table once for all."""
        settling = [work for work in works if isinstance(work, Settling) and work.removes]
        if settling:
            self._settle_all(tx, settling)
        done: dict[Work[Any], Any] = {work: work.published for work in settling}
        waiting = [work for work in works if isinstance(work, Inserting) and not work.claims]
        if waiting:
            rows = [row for work in waiting for row in work.rows]
            self._messages.insert_rows(tx, [each for work in waiting for each in work.outgoing], rows)
            done.update((work, [None] * len(work.rows)) for work in waiting)
        return [done[work] if work in done else work(tx) for work in works]

    def _settle_all(self, tx: Transaction, attempts: Sequence[Settling]) -> None:
        """Settle, or raise ClaimLost where one of the messages is not ours any more."""
        settlements = [attempt.settlement for attempt in attempts]
        # The messages first: their rows lock the executions. Who does not get them writes nothing.
        self._release(tx, settlements)
        self._results.save(tx, *(row for each in settlements for row in each.results))
        self._results.save_runs(tx, [each.run for each in settlements if each.run is not None])
        for attempt in attempts:
            attempt.published = self._follow(tx, attempt.settlement)
        self._defer(tx, attempts)

    def _defer(self, tx: Transaction, attempts: Sequence[Settling]) -> None:
        """What is done for rows that others write too: once for each, at the end of the transaction."""
        parts: dict[str, list[tuple[Settling, ChordPart]]] = {}
        limits: dict[str, Limit] = {}
        for attempt in attempts:
            for part in attempt.settlement.chord_parts:
                parts.setdefault(part.group_id, []).append((attempt, part))
            limit, closed = attempt.settlement.limit, attempt.settlement.close_chord
            if limit is not None:
                limits[limit.key] = max(limit, limits.get(limit.key, limit), key=attrgetter("places"))
            if closed is not None:
                tx.defer(closed, functools.partial(self._chords.close, tx, closed))
        for group_id, settled in parts.items():
            tx.defer(group_id, functools.partial(self._count, tx, settled))
        for key, limit in limits.items():
            tx.defer(key, functools.partial(self._places.leave, tx, limit))

    def _follow(self, tx: Transaction, settlement: Settlement) -> list[Delivery | None]:
        message, outgoing = settlement.delivery.message, settlement.publish
        if (settlement.requeue_at is None and UNIQUE in message.headers) or has_key(outgoing):
            # Nothing is refused here: somebody may wait for what follows.
            return cast("list[Delivery | None]", self._unique.follow(tx, settlement, outgoing))
        return self._messages.insert(tx, outgoing) if outgoing else []

    def _count(self, tx: Transaction, settled: Sequence[tuple[Settling, ChordPart]]) -> None:
        """Count parts of one chord; with the last of them goes its body, if they complete it."""
        last, part = settled[-1]
        complete = last.settlement.on_chord_complete
        if self._chords.add(tx, [part for _, part in settled]) and complete is not None:
            # The list that `settle` returns, once this is committed.
            last.published += self._messages.insert(tx, [complete(part.group_id)])

    def _release(self, tx: Transaction, settlements: Sequence[Settlement]) -> None:
        """Remove the messages; one that is put back is settled by itself."""
        delivery, requeue_at = settlements[0].delivery, settlements[0].requeue_at
        if requeue_at is None:
            held = self._messages.remove(tx, *(each.delivery for each in settlements))
        else:
            held = self._messages.requeue(tx, delivery, requeue_at)
        if not held:
            raise ClaimLost(delivery.message.id, token_owner(delivery.token))

    # -- results ------------------------------------------------------------------------------------

    def save_result(self, row: ResultRow) -> None:
        self._writer.run(lambda tx: self._results.save(tx, row))

    def get_result(self, task_id: str) -> ResultRow | None:
        return self.get_results((task_id,)).get(task_id)

    def get_results(self, task_ids: Iterable[str]) -> dict[str, ResultRow]:
        ids = list(task_ids)
        self._writer.flush()
        return self.database.read(lambda tx: self._results.get(tx, ids))

    def forget(self, task_id: str) -> None:
        self._writer.run(lambda tx: self._results.forget(tx, task_id))

    def save_group(self, group_id: str, result: bytes) -> None:
        self._writer.run(lambda tx: self._results.save_group(tx, group_id, result))

    def get_group(self, group_id: str) -> GroupRow | None:
        return self.database.read(lambda tx: self._results.get_group(tx, group_id))

    def delete_group(self, group_id: str) -> None:
        self._writer.run(lambda tx: self._results.delete_group(tx, group_id))

    def chord_parts(self, group_id: str) -> list[ChordPart]:
        return self.database.read(lambda tx: self._chords.parts(tx, group_id))

    def runs(self, task_id: str) -> list[RunRow]:
        self._writer.flush()
        return self.database.read(lambda tx: self._results.runs(tx, task_id))

    def watch(self, task_id: str) -> AbstractContextManager[Watch]:
        return self._wakeup.watch(task_id)

    # -- processes ----------------------------------------------------------------------------------

    def join(self, worker: WorkerRow) -> None:
        self._writer.run(lambda tx: self._workers.join(tx, worker, self.lease_s))

    def renew(self, owner: str) -> bool:
        return self._writer.run(lambda tx: self._workers.renew(tx, owner, self.lease_s))

    def leave(self, owner: str) -> None:
        self._writer.run(lambda tx: self._leave(tx, owner))

    def _leave(self, tx: Transaction, owner: str) -> None:
        self._workers.leave(tx, owner)
        # Others may rescue now instead of at their next look.
        tx.changes.letters = True

    def workers(self) -> list[WorkerRow]:
        return self.database.read(self._workers.alive)

    def rescue(
        self,
        owner: str,
        dead: Callable[[WorkerRow], bool],
        *,
        by_lease: bool = True,
        names: Collection[str] | None = None,
    ) -> list[Delivery]:
        for limit in self.database.read(self._places.forgotten):
            wake = functools.partial(self._places.leave, limit=limit)
            self._writer.run(wake)
        gone = self.database.read(lambda tx: self._dead(tx, owner, dead, by_lease))
        deliveries = self._take_up("rescue", owner)
        for each in gone:
            # One transaction for each: a thousand messages of one must not hold up another's.
            take_over = functools.partial(
                self._inherit, dead=each, owner=owner, is_dead=dead, by_lease=by_lease, names=names
            )
            try:
                deliveries += self._take(("rescue", owner), take_over, list)
            except OperationalError:
                if not deliveries:
                    raise
                break  # What was taken over is the caller's to conclude; the next look finds the rest.
        return deliveries

    def _dead(
        self, tx: Transaction, owner: str, dead: Callable[[WorkerRow], bool], by_lease: bool
    ) -> list[str]:
        gone, known = self._workers.dead(tx, dead, by_lease)
        # Who has no row was taken for dead by somebody, and may be about to join again.
        orphaned = self._messages.owners(tx) - known if by_lease else set()
        return [each for each in dict.fromkeys([*gone, *sorted(orphaned)]) if each != owner]

    def _inherit(
        self,
        tx: Transaction,
        *,
        dead: str,
        owner: str,
        is_dead: Callable[[WorkerRow], bool],
        by_lease: bool,
        names: Collection[str] | None,
    ) -> list[Delivery]:
        # Between the look and this transaction it may have renewed its lease, or another have come first.
        if not self._workers.still_dead(tx, dead, is_dead, by_lease):
            return []
        inherited = self._messages.inherit(tx, dead, owner, names)
        self._results.save_corrupt(tx, inherited.corrupt)
        if names is None or not self._messages.owns_any(tx, dead):
            self._workers.remove(tx, dead)
        return list(inherited.deliveries)

    # -- control ------------------------------------------------------------------------------------

    def revoke(self, task_ids: Iterable[str], *, until: float, results: Collection[ResultRow] = ()) -> None:
        ids = list(task_ids)
        self._writer.run(lambda tx: self._revoke(tx, ids, until, results))

    def _revoke(
        self, tx: Transaction, ids: Sequence[str], until: float, results: Collection[ResultRow]
    ) -> None:
        self._control.revoke(tx, ids, until)
        running = self._messages.running(tx, [row.task_id for row in results]) if results else set()
        for row in results:
            if row.task_id not in running:
                self._results.save_unless_begun(tx, row)
        if until > _clock.time():  # Else it is a revoke that is lifted.
            self._unique.free(tx, ids)

    def revoked(self) -> set[str]:
        return self.database.read(self._control.revoked)

    def purge(self, queues: Collection[str] | None = None) -> int:
        if queues is not None and not queues:
            return 0
        deleted, last = 0, 0
        while rows := self._writer.run(functools.partial(self._messages.purge, queues=queues, after=last)):
            deleted, last = deleted + len(rows), rows[-1]
        return deleted

    def queue_lengths(self, names: Collection[str] | None = None) -> dict[str, int]:
        return self.database.read(lambda tx: self._messages.lengths(tx, names))

    def next_due(self) -> float | None:
        return self.database.read(self._messages.next_due)

    def waiting(self, limit: int) -> list[Waiting]:
        return self.database.read(lambda tx: self._messages.waiting(tx, limit))

    def unfinished(self) -> dict[MessageState, int]:
        self._writer.flush()
        return self.database.read(self._messages.states)

    def post(self, topic: str, payload: str, *, until: float) -> int:
        return self._writer.run(lambda tx: self._control.post(tx, topic, payload, until))

    def letters(self, topics: Collection[str]) -> list[Letter]:
        return self.database.read(lambda tx: self._control.letters(tx, topics))

    # -- upkeep -------------------------------------------------------------------------------------

    def prune(self, results_before: float | None, runs_before: float | None, batch: int = 1000) -> int:
        removed = 0
        for work in self._pruning.steps(results_before, runs_before, batch):
            removed += self._writer.run(work)
        return removed

    def clock_offset(self) -> float:
        if self.database.dialect.single_writer:
            return 0.0
        before = _clock.time()
        theirs = self.database.read(self._workers.now)
        return theirs - (before + _clock.time()) / 2

    def on_new_messages(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._wakeup.on_messages(callback)

    def on_letters(self, callback: Callable[[], None]) -> Callable[[], None]:
        return self._wakeup.on_letters(callback)

    def before_fork(self) -> None:
        """Come to rest, so that a child inherits nothing half done."""
        self._writer.hold()
        self.database.before_fork()

    def after_fork_in_parent(self) -> None:
        self.database.after_fork_in_parent()
        self._writer.let_go()

    def close(self) -> None:
        _open_stores.discard(self)
        # The writer first: what `*_soon` was given is committed before the connections go.
        self._writer.close()
        self._wakeup.close()
        # A connection of SQLite that is closed in the middle of a statement takes the process with it.
        self._writer.alone(self.database.close)

    def after_fork(self) -> None:
        # Once per process: the second caller must not undo what was begun since the first.
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        # What the parent does not know is not the child's to find out.
        self._unsure, self._unanswered = {}, {}
        self.database.after_fork()
        self._writer.after_fork()
        self._wakeup.after_fork()

    def _look(self, tx: Transaction, watched: set[str]) -> tuple[Any, set[str]]:
        """For databases that do not tell: what differs when there is something new, and who has ended."""
        ready, next_due = self._messages.peek(tx)
        seen = (self._messages.last(tx), ready, next_due, *self._control.signature(tx))
        return seen, self._results.ready(tx, watched)


def _before_fork() -> None:
    for store in list(_open_stores):
        store.before_fork()
        _resting.append(store)


def _after_fork_in_parent() -> None:
    while _resting:
        _resting.pop().after_fork_in_parent()


def _after_fork_in_child() -> None:
    while _resting:
        _resting.pop().after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
