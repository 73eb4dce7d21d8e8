"""The floor under a durable call and its task in one process: what has to be committed, and nothing else."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any

from compat_tests.bench.contenders import Contender

__all__ = ("BareQueue", "Outcome", "make")

#: Outcomes that share a transaction, and seconds for which they wait for more where nobody waits for them.
_BATCH = 32
_WINDOW_S = 0.001

_TABLES = """
CREATE TABLE messages (id INTEGER PRIMARY KEY, task_id TEXT, name TEXT, queue TEXT, state INTEGER,
    created_at REAL, headers TEXT, properties TEXT, body TEXT);
CREATE TABLE results (id INTEGER PRIMARY KEY, task_id TEXT UNIQUE, status TEXT, result TEXT, done_at REAL);
CREATE TABLE runs (id INTEGER PRIMARY KEY, task_id TEXT, status TEXT, began_at REAL, ended_at REAL);
"""
_PUBLISH = (
    "INSERT INTO messages (task_id, name, queue, state, created_at, headers, properties, body)"
    " VALUES (:task_id, :name, :queue, :state, :created_at, :headers, :properties, :body)"
)
_BEGIN = "UPDATE messages SET state = 2 WHERE id = ?"
_RUN = "INSERT INTO runs (task_id, status, began_at, ended_at) VALUES (?, 'SUCCESS', ?, ?)"
_RESULT = "INSERT INTO results (task_id, status, result, done_at) VALUES (?, 'SUCCESS', ?, ?)"
_REMOVE = "DELETE FROM messages WHERE id = ?"


#: The row, the task's id, its body, and whether it was committed as one that begins.
_Call = tuple[int, str, str, bool]


def make(variant: str) -> Contender:
    """There is one variant."""
    return OnSqlite()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a task leaves behind."""

    row: int
    task_id: str
    result: str
    began_at: float
    ended_at: float


class BareQueue(Contender):
    """The caller commits a message; a thread gets it in memory, runs it, and commits its outcome with others.

    A message is committed as one that begins where the thread is free, else that is committed before it
    does. Celery's headers and body, the result, and a line of the history. No options, no signals, no
    retries, no states, no schedule, no second thread, and nobody rescues anything.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        #: The thread has nothing to do.
        self._idle = True
        #: Somebody waits for the next result.
        self._awaited = False
        self._stored = 0
        self._news = threading.Condition()
        self._worker = threading.Thread(target=self._work)

    def dumps(self, value: Any) -> str:
        """JSON."""
        raise NotImplementedError

    def loads(self, text: str) -> Any:
        """What `dumps` wrote."""
        raise NotImplementedError

    def insert(self, message: dict[str, Any]) -> int:
        """Commit a message and return its row."""
        raise NotImplementedError

    def begin(self, row: int) -> None:
        """Commit that a task begins."""
        raise NotImplementedError

    def settle(self, outcomes: list[Outcome]) -> None:
        """Commit outcomes, and remove their messages."""
        raise NotImplementedError

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        self._worker.start()

    def publish(self, count: int) -> None:
        for _ in range(count):
            self._publish()

    def _publish(self) -> None:
        task_id = str(uuid.uuid4())
        body = self.dumps(_BODY)
        begins, self._idle = self._idle, False
        row = self.insert(
            {
                "task_id": task_id,
                "name": _NAME,
                "queue": "celery",
                "state": 2 if begins else 1,
                "created_at": time.time(),
                "headers": self.dumps({**_HEADERS, "id": task_id, "root_id": task_id}),
                "properties": self.dumps({**_PROPERTIES, "correlation_id": task_id, "reply_to": task_id}),
                "body": body,
            }
        )
        self._calls.put((row, task_id, body, begins))

    def _work(self) -> None:
        outcomes: list[Outcome] = []
        while True:
            try:
                call = self._calls.get(timeout=self._patience(bool(outcomes)))
            except queue.Empty:
                self._store(outcomes)
                continue
            if call is None:
                return
            outcomes.append(self._run(*call))
            if len(outcomes) >= _BATCH:
                self._store(outcomes)

    def _patience(self, has_outcomes: bool) -> float | None:
        """Seconds to wait for another call before the outcomes are committed; None: until there is one."""
        if has_outcomes:
            return 0.0 if self._awaited else _WINDOW_S
        self._idle = self._calls.empty()
        return None

    def _run(self, row: int, task_id: str, body: str, begins: bool) -> Outcome:
        if not begins:
            self.begin(row)
        began_at = time.time()
        args, kwargs, _ = self.loads(body)
        result = self.dumps(_noop(*args, **kwargs))
        return Outcome(row=row, task_id=task_id, result=result, began_at=began_at, ended_at=time.time())

    def _store(self, outcomes: list[Outcome]) -> None:
        self.settle(outcomes)
        with self._news:
            self._stored += len(outcomes)
            self._news.notify_all()
        outcomes.clear()

    def wait(self, count: int) -> None:
        with self._news:
            self._news.wait_for(lambda: self._stored >= count)

    def round_trip(self, *, coroutine: bool = False) -> None:
        with self._news:
            after = self._stored + 1
        self._awaited = True
        self._publish()
        self.wait(after)
        self._awaited = False

    def stop(self) -> None:
        if self._worker.is_alive():
            self._calls.put(None)
            self._worker.join()


class OnSqlite(BareQueue):
    """The modules `sqlite3` and `json`; WAL and `synchronous=NORMAL`, as celerylite's default."""

    def __init__(self) -> None:
        super().__init__()
        self._database = sqlite3.connect("floor.sqlite3", isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=NORMAL")
        self._database.executescript(_TABLES)
        self._writes = threading.Lock()

    def dumps(self, value: Any) -> str:
        return json.dumps(value)

    def loads(self, text: str) -> Any:
        return json.loads(text)

    def insert(self, message: dict[str, Any]) -> int:
        execute = self._database.execute
        with self._writes:
            execute("BEGIN IMMEDIATE")
            row = execute(_PUBLISH, message).lastrowid
            execute("COMMIT")
        assert row is not None
        return row

    def begin(self, row: int) -> None:
        execute = self._database.execute
        with self._writes:
            execute("BEGIN IMMEDIATE")
            execute(_BEGIN, (row,))
            execute("COMMIT")

    def settle(self, outcomes: list[Outcome]) -> None:
        many = self._database.executemany
        with self._writes:
            self._database.execute("BEGIN IMMEDIATE")
            many(_RUN, [(each.task_id, each.began_at, each.ended_at) for each in outcomes])
            many(_RESULT, [(each.task_id, each.result, each.ended_at) for each in outcomes])
            many(_REMOVE, [(each.row,) for each in outcomes])
            self._database.execute("COMMIT")

    def stop(self) -> None:
        super().stop()
        self._database.close()


def _noop() -> int:
    return 1


_NAME = "bench.noop"
_BODY = [[], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
_HEADERS: dict[str, Any] = {
    "lang": "py",
    "task": _NAME,
    "shadow": None,
    "eta": None,
    "expires": None,
    "group": None,
    "group_index": None,
    "retries": 0,
    "timelimit": [None, None],
    "parent_id": None,
    "argsrepr": "()",
    "kwargsrepr": "{}",
    "origin": "gen1@bench",
    "ignore_result": False,
    "replaced_task_nesting": 0,
    "stamped_headers": None,
    "stamps": {},
}
_PROPERTIES: dict[str, Any] = {
    "delivery_mode": 2,
    "delivery_info": {"exchange": "", "routing_key": "celery"},
    "priority": 0,
    "body_encoding": "base64",
}
