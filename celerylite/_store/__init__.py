"""The store: what waits, runs and came out, in SQL; this file is its contract and its records.

Nothing here imports SQLAlchemy: `open_store` loads the engine at the first use.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from importlib import import_module
from typing import Any, TypeAlias, TypeVar, cast

from celerylite._message import Message
from celerylite._store.processes import machine_id, process_started
from celerylite.exceptions import ClaimLost

__all__ = (
    "ChordPart",
    "Claim",
    "ClaimLost",
    "Claimed",
    "CorruptRow",
    "Delivery",
    "Done",
    "Duplicate",
    "GroupRow",
    "Letter",
    "Limit",
    "MessageState",
    "Outgoing",
    "Overlap",
    "PeriodicRow",
    "Published",
    "ResultRow",
    "RunRow",
    "SCHEDULE_TOPIC",
    "Settlement",
    "Store",
    "Ticked",
    "Waiting",
    "Watch",
    "WorkerRow",
    "holders",
    "open_store",
    "this_process",
)

T = TypeVar("T")
#: Told what was committed, or why it was not.
Done = Callable[["T | None", "BaseException | None"], None]

#: What the owner of a row begins with that is a beat's and no runtime's.
BEAT_OWNER = "beat:"

#: Topic of the letters that say that entries of the schedule were edited.
SCHEDULE_TOPIC = "schedule"


class MessageState(IntEnum):
    """Where a message stands. A message that is settled has no row any more."""

    #: Its `due_at` has not come.
    SCHEDULED = 0
    #: Anybody may claim it.
    READY = 1
    #: Owned by a process that has not started it: if that process dies it is delivered again, uncounted.
    CLAIMED = 2
    #: Owned and started: if the process dies, whoever rescues it decides what happens.
    RUNNING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Publish a message as already owned, so that nobody else can take it between commit and run."""

    owner: str
    #: RUNNING instead of CLAIMED.
    running: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message to be published. A `due_at` in the future wins over `claim`: it becomes SCHEDULED."""

    message: Message
    claim: Claim | None = None
    #: False: somebody waits for this one, so a duplicate is published too, as one that ends REVOKED.
    may_drop: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """What became of a message whose key (header `celerylite_unique`) is held: nothing was published."""

    task_id: str
    #: The task that holds the key.
    holder: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `places` deliveries with this `key` are RUNNING at once."""

    key: str
    places: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that this process owns until it settles it or gives it back."""

    row: int
    #: Changes with every claim; a write with a token that is not the row's any more is refused.
    token: str
    message: Message
    #: How often the message was delivered, this time included. Claims given back unstarted do not count.
    deliveries: int = 1
    running: bool = False

    @property
    def redelivered(self) -> bool:
        return self.deliveries > 1


#: What became of one message that was published: a Delivery if it is claimed.
Published: TypeAlias = Delivery | Duplicate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One row of Celery's `celery_taskmeta`; bytes are in Celery's encoding, `date_done` is naive UTC."""

    task_id: str
    status: str
    result: bytes | None = None
    traceback: str | None = None
    children: bytes | None = None
    #: None is stored as the current moment, as Celery's column default does.
    date_done: datetime | None = None
    name: str | None = None
    args: bytes | None = None
    kwargs: bytes | None = None
    worker: str | None = None
    retries: int | None = None
    queue: str | None = None
    stamps: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRow:
    """One row of Celery's `celery_tasksetmeta`."""

    group_id: str
    result: bytes | None
    #: Naive UTC.
    date_done: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One attempt at a task: the history. Times are epoch seconds."""

    task_id: str
    name: str
    queue: str | None = None
    worker: str | None = None
    retries: int = 0
    started_at: float | None = None
    finished_at: float | None = None
    state: str
    error: str | None = None
    #: The message as `celerylite._message.to_text` writes it; None where another one follows (a retry).
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChordPart:
    """One finished member of a chord's header."""

    group_id: str
    #: Members in the header; the chord is complete when as many different parts have settled. 0 where this
    #: part does not know: of a header that is made while it is sent, only the last part may.
    size: int
    #: Members that this part added to the header while it ran, which the chord waits for too.
    added: int = 0
    #: Whether this is such a member, and not one of `size`.
    extra: bool = False
    index: int
    task_id: str
    state: str
    #: Encoded as results are.
    result: bytes | None = None
    #: JSON of the body's signature; the part that settles first is the one that stores it.
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Everything that becomes true when an execution ends, in one transaction."""

    delivery: Delivery
    results: tuple[ResultRow, ...] = ()
    run: RunRow | None = None
    publish: tuple[Outgoing, ...] = ()
    chord_parts: tuple[ChordPart, ...] = ()
    #: Called inside the transaction with the id of each chord that this settlement completes. Must be
    #: quick, must not use the store. What it returns is published in the same transaction; its
    #: Delivery or None follows those of `publish` in what `settle` returns.
    on_chord_complete: Callable[[str], Outgoing] | None = None
    #: The id of a chord whose body goes out with this settlement: its parts are dropped.
    close_chord: str | None = None
    #: Epoch seconds: keep the message, READY (or SCHEDULED) again at that time; its next claim counts.
    requeue_at: float | None = None
    #: The limit under which the delivery ran: its place goes to one that waits for it.
    limit: Limit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CorruptRow:
    """A message that could not be read: it has left the queue, with a FAILURE result where an id is known."""

    row: int
    task_id: str | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """What one call of `Store.claim` found."""

    deliveries: tuple[Delivery, ...] = ()
    #: When the next SCHEDULED message of any queue comes due (epoch seconds).
    next_due_at: float | None = None
    #: There may be more that is READY now: ask again as soon as there is room.
    more: bool = False
    corrupt: tuple[CorruptRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A process that runs tasks, or a beat that answers.

    `machine` and `pid_started` tell a process from one that reuses its pid.
    """

    owner: str
    #: The node name, as `celery@host`.
    hostname: str
    pid: int
    pid_started: float | None = None
    #: None takes from every queue.
    queues: tuple[str, ...] | None = None
    #: Epoch seconds by the database's clock. Set by the store; ignored by `join`.
    lease_until: float = 0.0
    #: It went by itself; what it still owns may be taken at once.
    left: bool = False
    machine: str = field(default_factory=machine_id)

    @property
    def is_beat(self) -> bool:
        """Whether it runs no tasks and knows no command but ``ping``."""
        return self.owner.startswith(BEAT_OWNER)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicRow:
    """What the database knows of one schedule entry. Times are epoch seconds."""

    name: str
    #: JSON of an entry that was added or changed at run time; None: it is defined in code.
    spec: str | None = None
    enabled: bool = True
    last_run_at: float | None = None
    next_run_at: float | None = None
    total_run_count: int = 0
    #: The name of the app that wrote the entry: apps that share a database leave each other's alone.
    app: str | None = None
    #: What it sends.
    task: str | None = None
    #: The id of the task that was sent last.
    last_task_id: str | None = None
    #: The due time of a run that waits for the one before to end (``overlap='buffer_one'``).
    buffered_at: float | None = None


class Overlap(Enum):
    """What becomes of a tick while a message of the entry's last run is still outstanding."""

    ALLOW = "allow"
    #: The tick is taken and nothing is published.
    SKIP = "skip"
    #: One tick, the first, is remembered in `PeriodicRow.buffered_at`; those after it are skipped.
    BUFFER_ONE = "buffer_one"


class Ticked(IntEnum):
    """What `Store.tick` did. False for a tick that was not ours to take."""

    #: Another process had this tick; nothing was written.
    ELSEWHERE = 0
    PUBLISHED = 1
    #: Ours, but the run before it has not ended: skipped or remembered.
    HELD_BACK = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """A message that nobody has claimed."""

    row: int
    state: MessageState
    message: Message
    deliveries: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One entry of the mailbox (remote control and its replies)."""

    row: int
    topic: str
    payload: str


class Watch(ABC):
    """Tells when the result of one task may have changed; the watcher reads it and decides."""

    #: The row that this process has just committed, as it would be read now; None: it has to be read.
    row: ResultRow | None
    #: A hint: when the watch began, this process was still to commit an outcome. It may fail to.
    expected: bool

    @abstractmethod
    def wait(self, timeout: float | None = None) -> bool:
        """Block until the result may have changed since the last call, or `timeout` real seconds passed.

        True if it may have changed. What happened before the watch began it does not know: read the result
        before waiting, or, where it is `expected`, after waiting for a moment.
        """


class Store(ABC):
    """Messages, results and everybody's liveness in one SQL database.

    Thread-safe. Every method may block on the database; none may be called on an event loop's thread.
    A method has committed when it returns and has written nothing when it raises, unless it says otherwise.
    A database that cannot be reached raises kombu's `OperationalError`; the next call connects anew.
    """

    # -- publishing ---------------------------------------------------------------------------------

    @abstractmethod
    def publish(self, outgoing: Sequence[Outgoing]) -> list[Published]:
        """Insert the messages in one transaction; a Delivery for each that carries a `claim`, else None.

        None also for a claimed one that others took over while an answer was lost. A Duplicate for one
        whose key is held, which is not inserted; AlreadyQueued where it wants that. Callers that arrive
        together share a commit, but not their failures. A locked or unreachable database is retried for
        `publish_timeout` seconds, then OperationalError is raised.
        """

    @abstractmethod
    def publish_soon(self, outgoing: Sequence[Outgoing], done: Done[list[Published]]) -> None:
        """As `publish`, committed by the writer's thread. Does not block; may be called on a loop's thread.

        `done` is called with what `publish` returns or raises, on the thread that committed it, or at once
        if a message cannot be encoded. It must be quick and must not raise.
        """

    @abstractmethod
    def publish_later(self, outgoing: Sequence[Outgoing], done: Done[list[Published]]) -> None:
        """As `publish`, together with others, as `settle_later` says.

        `done` is told as by `publish_soon`, but not that the database is away: until `rest` or `close` it is
        tried again. What this process reads of results includes it. Does not block as long as few wait.
        """

    @abstractmethod
    def publish_in(self, connection: Any, outgoing: Sequence[Outgoing]) -> list[Duplicate]:
        """Insert in the CALLER's transaction (an SQLAlchemy Connection or Session of the same database).

        Claims are ignored. Nothing is committed here; when the caller commits, runtimes are woken.
        Returns those that were not inserted, or raises AlreadyQueued, as `publish` does.
        """

    # -- the life of a delivery ---------------------------------------------------------------------

    @abstractmethod
    def claim(
        self,
        owner: str,
        queues: Collection[str] | None,
        limit: int,
        names: Collection[str] | None = None,
    ) -> Claimed:
        """Take up to `limit` READY messages, highest priority first, oldest first within one.

        They are CLAIMED; `begin` makes them RUNNING. What has come due is made READY before. `queues` None
        takes from all, `names` None tasks of every name. Two callers never get the same message. `owner` must
        have joined, or `rescue` of another process takes its messages for orphans.
        """

    @abstractmethod
    def claim_scheduled(self, owner: str, task_ids: Collection[str]) -> list[Delivery]:
        """Take SCHEDULED messages by task id before they are due (a revoke reaches them at once)."""

    @abstractmethod
    def begin(
        self,
        deliveries: Sequence[Delivery],
        results: Sequence[ResultRow] = (),
        limits: Mapping[int, Limit] | None = None,
    ) -> set[int]:
        """Mark deliveries RUNNING and write the results (STARTED), in one transaction.

        One with a limit (by its row) that finds no place is not ours any more: it waits in the database,
        out of everybody's way and uncounted, until a place of its limit is free.
        Returns the rows that are still ours. Those that are not must not be run; the results with
        their task ids are not written.
        """

    @abstractmethod
    def settle(self, settlement: Settlement) -> list[Delivery | None]:
        """Write everything an ending execution makes true, in ONE transaction, or nothing.

        Frees the key of the message, unless it holds for a time or what is published is its retry.
        Returns what became of `publish` (and of completed chords), as `publish` does. Raises
        ClaimLost when the token does not match any more.
        """

    @abstractmethod
    def settle_later(
        self, settlement: Settlement, done: Done[list[Delivery | None]], *, urgent: bool = False
    ) -> None:
        """As `settle`, in a transaction with others: after the option `window` (seconds), or after up to
        twenty of them while many come. What is `urgent` goes at once.

        `done` is told as by `publish_soon`. What this process reads includes it: reading commits it first.
        Does not block as long as few wait.
        """

    @abstractmethod
    def flush(self) -> None:
        """Return when all that was given to `*_later` before is committed (or has failed)."""

    @abstractmethod
    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        """Make deliveries READY again as if never claimed. Those that are not ours are skipped."""

    @abstractmethod
    def rest(self) -> None:
        """`flush`, and end threads that are only kept in case; they begin again when they are needed."""

    # -- results ------------------------------------------------------------------------------------

    @abstractmethod
    def save_result(self, row: ResultRow) -> None:
        """Write a result. As Celery: a SUCCESS is never overwritten; such a call does nothing."""

    @abstractmethod
    def get_result(self, task_id: str) -> ResultRow | None: ...

    @abstractmethod
    def get_results(self, task_ids: Iterable[str]) -> dict[str, ResultRow]:
        """The rows that exist, by task id."""

    @abstractmethod
    def forget(self, task_id: str) -> None:
        """Delete a result, if there is one."""

    @abstractmethod
    def save_group(self, group_id: str, result: bytes) -> None: ...

    @abstractmethod
    def get_group(self, group_id: str) -> GroupRow | None: ...

    @abstractmethod
    def delete_group(self, group_id: str) -> None: ...

    @abstractmethod
    def chord_parts(self, group_id: str) -> list[ChordPart]:
        """The parts that have settled, by index; empty once the chord was closed."""

    @abstractmethod
    def runs(self, task_id: str) -> list[RunRow]:
        """Every attempt that has ended, oldest first."""

    @abstractmethod
    def watch(self, task_id: str) -> AbstractContextManager[Watch]:
        """Watch one task's result: told at commit in this process, by NOTIFY or a change check otherwise."""

    # -- processes ----------------------------------------------------------------------------------

    @abstractmethod
    def join(self, worker: WorkerRow) -> None:
        """Announce a process; its lease (option `lease`, seconds) runs from now by the database's clock."""

    @abstractmethod
    def renew(self, owner: str) -> bool:
        """Prolong the lease. False: this process was declared dead and must join anew."""

    @abstractmethod
    def leave(self, owner: str) -> None:
        """Say that the process goes. What it still owns may be rescued at once."""

    @abstractmethod
    def workers(self) -> list[WorkerRow]:
        """Processes that have joined and not left, with a lease that has not lapsed."""

    @abstractmethod
    def rescue(
        self,
        owner: str,
        dead: Callable[[WorkerRow], bool],
        *,
        by_lease: bool = True,
        names: Collection[str] | None = None,
    ) -> list[Delivery]:
        """Take over from every other owner that left, whose lease lapsed, or that `dead` says is gone.

        Without `by_lease` a lapsed lease means nothing: see `worker._pulse`.

        Their CLAIMED messages become READY, uncounted. Their RUNNING ones are transferred to `owner`
        with a new token and returned, their count unchanged: settle each (FAILURE, or `requeue_at`).
        With `names`, RUNNING messages of other tasks are left for a process that knows them.
        """

    # -- control ------------------------------------------------------------------------------------

    @abstractmethod
    def revoke(self, task_ids: Iterable[str], *, until: float, results: Collection[ResultRow] = ()) -> None:
        """Remember the ids as revoked until that time (epoch seconds), in every process.

        Of `results`, those are stored with it whose call does not run and has no state yet, or one of a call
        that waits. Atomic.
        """

    @abstractmethod
    def revoked(self) -> set[str]: ...

    @abstractmethod
    def purge(self, queues: Collection[str] | None = None) -> int:
        """Delete what nobody has claimed, scheduled messages included; the number deleted."""

    @abstractmethod
    def queue_lengths(self, names: Collection[str] | None = None) -> dict[str, int]:
        """READY messages per queue (of tasks called `names`); empty queues are left out."""

    @abstractmethod
    def next_due(self) -> float | None:
        """When the next SCHEDULED message comes due (epoch seconds)."""

    @abstractmethod
    def waiting(self, limit: int) -> list[Waiting]:
        """Up to `limit` unclaimed messages: READY ones in the order of claims, then SCHEDULED by time."""

    @abstractmethod
    def unfinished(self) -> dict[MessageState, int]:
        """How many messages are in each state (states without any are left out)."""

    @abstractmethod
    def post(self, topic: str, payload: str, *, until: float) -> int:
        """Put a letter in the mailbox, readable until that time (epoch seconds); returns its row."""

    @abstractmethod
    def letters(self, topics: Collection[str]) -> list[Letter]:
        """Every letter of the topics that is still readable, oldest first. The reader skips what it knows."""

    # -- beat ---------------------------------------------------------------------------------------

    @abstractmethod
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
        """Publish for the tick (entry, due_at) unless that was done before; one transaction.

        Sets the entry's last run to `ran_at` (default: now) and `next_run_at`, and `counts` the run. With
        `overlap` nothing is published while the message of the last run is outstanding; `is_busy` says
        that the caller has seen it so, for whom `outgoing` may be empty; a run that is held back does not
        count. An entry that is not known yet is added, as one of `app`.
        """

    @abstractmethod
    def tick_buffered(self, entry: str, due_at: float, outgoing: Sequence[Outgoing]) -> bool:
        """Publish the run that `tick` remembered for `due_at`, once the one before it has ended.

        False: it has not ended, or another process was first; nothing was written.
        """

    @abstractmethod
    def is_outstanding(self, task_id: str) -> bool:
        """Whether a message of the task waits, runs, or waits for a retry."""

    @abstractmethod
    def periodic(self, names: Collection[str] | None = None) -> dict[str, PeriodicRow]:
        """The entries of these names that there are, or all, by name."""

    @abstractmethod
    def add_periodic(self, rows: Sequence[PeriodicRow]) -> set[str]:
        """Add the entries whose names are not there yet, in one transaction; the names that were added.

        This and the two methods below tell the other processes, by a letter of `SCHEDULE_TOPIC`, if an
        entry was added, changed or removed at run time.
        """

    @abstractmethod
    def edit_periodic(self, name: str, **columns: Any) -> bool:
        """Set fields of an entry (those of PeriodicRow), leave the others as they are; False: no such one."""

    @abstractmethod
    def delete_periodic(self, name: str) -> bool:
        """Remove an entry; False if there was none."""

    @abstractmethod
    def clock_offset(self) -> float:
        """Seconds by which the database's clock is ahead of ours; 0 for a database on this machine."""

    # -- upkeep -------------------------------------------------------------------------------------

    @abstractmethod
    def prune(self, results_before: float | None, runs_before: float | None, batch: int = 1000) -> int:
        """Delete up to `batch` outdated rows per table (epoch seconds, None keeps all); the number deleted.

        Each table is a transaction of its own. Repeat until it returns 0.
        """

    @abstractmethod
    def on_new_messages(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back (in any thread, soon after a commit here or elsewhere) when there may be work.

        The callback must not block and must not use the store. Returns the function that ends it.
        """

    @abstractmethod
    def on_letters(self, callback: Callable[[], None]) -> Callable[[], None]:
        """As `on_new_messages`, for new letters and revokes."""

    @abstractmethod
    def close(self) -> None:
        """Finish what `*_soon` calls were given, end the store's threads, close connections. Idempotent."""

    @abstractmethod
    def after_fork(self) -> None:
        """In a child process: fresh locks and connections; the parent's go on. `os.fork` does it by itself.

        May be called again: whoever has state of its own to renew calls it for the order's sake.
        """


def open_store(url: str, **options: Any) -> Store:
    """Open the database at `url`, creating or migrating our tables. Imports SQLAlchemy.

    `url`: an SQLAlchemy URL, with or without Celery's `db+` in front. Options:

    durability       what a commit survives: 'normal' (a killed process), 'full' (SQLite: power loss too) or
                     'memory' (`publish_later` is for this one; PostgreSQL: does not wait for the disk)
    lease            seconds a process is taken for alive after its last `renew` (20)
    window           seconds that `*_later` may wait for other commits (0.001)
    publish_timeout  seconds `publish` tries to reach the database (4)
    table_names      Celery's `database_table_names`: {'task': ..., 'group': ...}
    table_schemas    Celery's `database_table_schemas`
    engine_options   passed to SQLAlchemy's `create_engine`
    engine_callback  called with the engine once it is made

    Raises ImproperlyConfigured (unusable URL, directory that cannot be written), SchemaTooNew, or
    kombu's OperationalError.
    """
    # The one place that loads SQLAlchemy: 0.15 s and 25 MB that `import celerylite` must not cost.
    module = import_module("celerylite._store.sql")
    return cast("Store", module.open_store(url, **options))


def holders(published: Iterable[Published]) -> dict[str, str]:
    """Of the duplicates among what was published, by the task's id the task that holds its key."""
    return {each.task_id: each.holder for each in published if isinstance(each, Duplicate)}


def this_process(owner: str, hostname: str, pid: int, queues: Collection[str] | None) -> WorkerRow:
    """The row with which the process `pid` of this machine joins."""
    return WorkerRow(
        owner=owner,
        hostname=hostname,
        pid=pid,
        pid_started=process_started(pid),
        queues=None if queues is None else tuple(queues),
    )
