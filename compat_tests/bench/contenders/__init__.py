"""Who is measured. A contender's module loads its library, so only the process that runs it imports that."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module

__all__ = ("CONTENDERS", "Contender", "Entry", "make")


class Contender(ABC):
    """One task queue, ready to be measured in a process and a working directory of its own.

    What a contender cannot do it leaves alone: the measures name who takes part in them.
    """

    #: Seconds that its server, or its database on one, took to be there: that is before any program starts.
    server_s = 0.0

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        """Start what runs tasks and return at once: it is up when a round trip has come back.

        `concurrency` None is the contender's usual. With `beat` there is a schedule of one hourly task.
        """
        raise NotImplementedError

    @abstractmethod
    def publish(self, count: int) -> None:
        """Enqueue no-ops one after the other. Without `start` they stay where they are."""

    def publish_together(self, callers: int, count: int) -> None:
        """Enqueue no-ops from that many coroutines on one loop."""
        raise NotImplementedError

    def publish_pauses(self, count: int, *, coroutines: bool) -> None:
        """Enqueue tasks that wait 50 ms and do nothing else."""
        raise NotImplementedError

    def wait(self, count: int) -> None:
        """Until `count` results are stored of all that was enqueued so far, round trips included."""
        raise NotImplementedError

    def round_trip(self, *, coroutine: bool = False) -> None:
        """Enqueue a no-op and wait for its result."""
        raise NotImplementedError

    def chain(self, length: int) -> None:
        """Run a chain of additions and wait for its sum."""
        raise NotImplementedError

    def chord(self, members: int) -> None:
        """Run a chord and wait for its body's result."""
        raise NotImplementedError

    def pids(self) -> list[int]:
        """The processes it needs besides the caller's, servers included where they are its own."""
        return []

    @abstractmethod
    def stop(self) -> None:
        """End what it started and remove what it keeps outside the working directory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A contender as tables show it."""

    title: str
    #: What of a call is left when everything is killed right after it was accepted.
    durable: str = "-"
    module: str = ""
    #: Which of its module's variants.
    variant: str = ""
    #: Tasks a second, roughly: how many a round can have so that it takes about a second.
    pace: int = 1000


CONTENDERS = {
    "celerylite": Entry(title="celerylite, SQLite file", durable="yes", module="celerylite", pace=3000),
    "celerylite-postgresql": Entry(
        title="celerylite, PostgreSQL", durable="yes", module="celerylite", variant="postgresql"
    ),
    "celerylite-mysql": Entry(
        title="celerylite, MariaDB", durable="yes", module="celerylite", variant="mysql"
    ),
    "celerylite-memory": Entry(
        title='celerylite, SQLite file, durability "memory"',
        durable="no",
        module="celerylite",
        variant="memory",
        pace=4000,
    ),
    "celery": Entry(title="Celery + Redis, prefork 2", durable="no", module="celery"),
    "celery-sql": Entry(
        title="Celery + Redis, results in SQLite", durable="no", module="celery", variant="sql", pace=400
    ),
    "huey": Entry(
        title="Huey, SQLite, 4 threads in process",
        durable="yes, but a running task is lost",
        module="huey",
    ),
    "dramatiq": Entry(title="Dramatiq + Redis, 2 x 4 threads", durable="no", module="dramatiq", pace=2000),
    "procrastinate": Entry(
        title="procrastinate + PostgreSQL", durable="yes", module="procrastinate", pace=400
    ),
    "apscheduler": Entry(title="APScheduler 3, in memory", durable="no"),
    "croniter": Entry(title="croniter, object kept"),
    "floor-commit": Entry(
        title="floor: sqlite3, a commit a row", durable="yes", module="floor_commit", pace=8000
    ),
    "floor-commit-postgresql": Entry(
        title="floor: psycopg, a commit a row",
        durable="yes",
        module="floor_commit_postgresql",
    ),
    "floor-libraries": Entry(title="floor: kombu and SQLAlchemy, a row read", module="floor_libraries"),
    "floor-core": Entry(
        title="floor: SQLAlchemy Core, a commit a row", durable="yes", module="floor_core", pace=4000
    ),
    "floor-group": Entry(
        title="floor: sqlite3, callers share commits", durable="yes", module="floor_commit", pace=30000
    ),
    "floor-queue": Entry(
        title="floor: a queue of two threads, sqlite3",
        durable="yes, but a running task is lost",
        module="floor_queue",
        pace=5000,
    ),
    "floor-queue-core": Entry(
        title="floor: the same with SQLAlchemy Core and kombu",
        durable="yes, but a running task is lost",
        module="floor_queue_core",
        pace=2000,
    ),
    "floor-queue-postgresql": Entry(
        title="floor: the same with psycopg",
        durable="yes, but a running task is lost",
        module="floor_queue_postgresql",
    ),
    "floor-thread": Entry(title="floor: from a thread to another and back"),
    "floor-executor": Entry(title="floor: run_in_executor"),
    "floor-task": Entry(title="floor: create_task"),
    "python": Entry(title="floor: bare Python"),
}


def make(name: str) -> Contender:
    """The contender, made in this process. Raises ImportError when its library is not installed."""
    entry = CONTENDERS[name]
    module = import_module(f"{__name__}.{entry.module}_contender")
    contender: Contender = module.make(entry.variant)
    return contender
