"""Wake-ups: who waits for messages, letters or results, and how they learn of a commit, ours or others'."""

from __future__ import annotations

import json
import logging
import selectors
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from celerylite import _clock
from celerylite._store import ResultRow, Watch
from celerylite._store.changes import Changes
from celerylite._store.engine import Database, Transaction
from celerylite._store.writer import Writer

__all__ = ("Wakeup",)

logger = logging.getLogger("celery.store")

#: Other processes change the database in real time, whatever clock a test has put in place.
_real = _clock.Clock()

Callback = Callable[[], None]

#: Seconds between looks: the first right after something changed, growing to the second.
_BUSY_S, _QUIET_S = 0.005, 0.1
#: MySQL answers over the network, so it is asked less often.
_REMOTE_BUSY_S, _REMOTE_QUIET_S = 0.02, 0.25
#: Seconds without anybody waiting after which the thread ends.
_IDLE_S = 1.0
#: Seconds until a lost LISTEN connection is made anew.
_RECONNECT_S = 1.0
#: Seconds of watching after which a failure is a new one; a try to connect takes less.
_LONG_S = 15.0


class Wakeup:
    """Tells waiting threads of commits. Thread-safe; its own thread runs only while somebody waits."""

    def __init__(
        self, database: Database, look: Callable[[Transaction, set[str]], tuple[Any, set[str]]]
    ) -> None:
        self._database = database
        self._look = look
        self.writer: Writer | None = None
        self._begin()

    def _begin(self) -> None:
        self._mutex = threading.Lock()
        self._messages: dict[int, Callback] = {}
        self._letters: dict[int, Callback] = {}
        self._watches: dict[str, set[_EventWatch]] = {}
        #: Tasks whose outcome this process is to commit, and has not begun to.
        self._expected: set[str] = set()
        self._numbers = 0
        self._thread: threading.Thread | None = None
        self._stop = _Stop()
        self._closed = False

    def after_fork(self) -> None:
        """Forget who waits in the parent."""
        # Without the locks: a thread of the parent may hold them, and here it will never let go.
        self._stop.abandon()
        self._begin()

    # -- waiting ------------------------------------------------------------------------------------

    def on_messages(self, callback: Callback) -> Callback:
        return self._subscribe(self._messages, callback)

    def on_letters(self, callback: Callback) -> Callback:
        return self._subscribe(self._letters, callback)

    @contextmanager
    def watch(self, task_id: str) -> Iterator[Watch]:
        """Watch one result, from before the block's first line on."""
        watch = _EventWatch()
        with self._mutex:
            self._watches.setdefault(task_id, set()).add(watch)
        self._start()
        # In this order: an outcome that begins to be committed from here on is told to the watch.
        watch.expected = task_id in self._expected
        try:
            yield watch
        finally:
            with self._mutex:
                self._watches[task_id].discard(watch)
                if not self._watches[task_id]:
                    del self._watches[task_id]

    def expect(self, task_ids: Iterable[str]) -> None:
        """Note that this process is to commit the outcomes of these tasks. A hint: a claim may get lost."""
        self._expected.update(task_ids)

    def stop_expecting(self, task_ids: Iterable[str]) -> None:
        """Note that the outcomes are about to be committed, or left to another process."""
        self._expected.difference_update(task_ids)

    def is_watched(self, task_id: str) -> bool:
        """Whether somebody in this process waits for this result."""
        return task_id in self._watches

    def _subscribe(self, callbacks: dict[int, Callback], callback: Callback) -> Callback:
        with self._mutex:
            self._numbers += 1
            number = self._numbers
            callbacks[number] = callback
        self._start()
        return lambda: callbacks.pop(number, None) and None

    # -- telling ------------------------------------------------------------------------------------

    def announce(self, changes: Changes) -> None:
        """Tell of a commit. Called after it, by whoever committed or saw it."""
        if changes.messages:
            _call(self._messages)
        if changes.letters:
            _call(self._letters)
        if changes.results and self._watches:
            with self._mutex:
                woken = [
                    (w, row)
                    for task_id, row in changes.results.items()
                    for w in self._watches.get(task_id, ())
                ]
            for watch, row in woken:
                watch.tell(row)

    def announce_everything(self) -> None:
        """Something changed and nobody knows what: everybody looks."""
        _call(self._messages)
        _call(self._letters)
        with self._mutex:
            woken = [watch for watches in self._watches.values() for watch in watches]
        for watch in woken:
            watch.tell()

    def hurry(self) -> None:
        """A commit of somebody else's is about to happen: look at once and often."""
        self._stop.hurry()

    # -- the thread that looks ----------------------------------------------------------------------

    def _start(self) -> None:
        if self._thread is not None or self._database.memory:
            return  # in memory there are no others
        with self._mutex:
            if self._thread is None and not self._closed:
                target = self._listen if self._can_listen() else self._poll
                self._thread = threading.Thread(target=self._run, args=(target,), daemon=True)
                self._thread.name = "celerylite-wakeup"
                self._thread.start()

    def _can_listen(self) -> bool:
        return self._database.dialect.notifies

    def _run(self, target: Callable[[], None]) -> None:
        told = False
        while True:
            began = _real.monotonic()
            try:
                target()
            except Exception as error:
                if self._stop.wait(0):
                    break
                # Once, until watching has gone well for a while. Of an outage whoever needs an answer tells.
                if not told or _real.monotonic() - began > _LONG_S:
                    level = logging.INFO if self._database.is_outage(error) else logging.WARNING
                    logger.log(level, "Cannot watch the database for changes, trying again: %s", error)
                    told = True
                if self._stop.wait(_RECONNECT_S):
                    break
                self.announce_everything()
            else:
                break

    def _deserted(self) -> bool:
        """Whether nobody waits; then the thread is taken off, and a next waiter starts another."""
        with self._mutex:
            if self._messages or self._letters or self._watches:
                return False
            self._thread = None
            return True

    def _poll(self) -> None:
        local = self._database.dialect.single_writer
        busy, quiet = (_BUSY_S, _QUIET_S) if local else (_REMOTE_BUSY_S, _REMOTE_QUIET_S)
        # The first look always finds a change: what was committed before it went unseen.
        self._database.forget_changes()
        changed = self._changed_file if local else self._changed_server()
        pause, deserted_since = busy, None
        while not self._stop.wait(pause):
            pause = busy if changed() or self._stop.hurried() else min(pause * 1.5, quiet)
            if self._messages or self._letters or self._watches:
                deserted_since = None
            elif deserted_since is None:
                deserted_since = _real.monotonic()
            elif _real.monotonic() - deserted_since > _IDLE_S and self._deserted():
                return

    def _changed_file(self) -> bool:
        # With the writer's own connection, whose own commits do not count as a change. If somebody
        # is just writing, the next look will do.
        if self.writer is None or not self.writer.quiet(self._database.changed_elsewhere):
            return False
        self.announce_everything()
        return True

    def _changed_server(self) -> Callable[[], bool]:
        last: Any = object()

        def look() -> bool:
            nonlocal last
            with self._mutex:
                watched = set(self._watches)
            seen, done = self._database.read(lambda tx: self._look(tx, watched))
            changed = bool(seen != last)
            last = seen
            if changed:
                self.announce(Changes(messages=True, letters=True))
            if done:
                self.announce(Changes(results=dict.fromkeys(done)))
            return changed or bool(done)

        return look

    def _listen(self) -> None:
        connection = self._database.take()
        try:
            raw = connection.connection
            raw.execute(f"LISTEN {self._database.dialect.channel}")
            # What was committed before this line was not heard.
            self.announce_everything()
            while not self._stop.wait_with(raw.fileno(), _IDLE_S):
                raw.pgconn.consume_input()
                while (note := raw.pgconn.notifies()) is not None:
                    self._heard(note.extra.decode())
                if self._deserted():
                    return
        finally:
            self._database.discard(connection)

    def _heard(self, payload: str) -> None:
        sender, kind, rest = payload.split(":", 2)
        if sender == self._database.uid:
            return  # announced at the commit
        if rest == "*":
            self.announce_everything()
        elif kind == "r":
            self.announce(Changes(results=dict.fromkeys(json.loads(rest))))
        else:
            self.announce(Changes(messages=kind == "m", letters=kind == "l"))

    def close(self) -> None:
        with self._mutex:
            self._closed = True
            thread = self._thread
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._stop.close()


class _EventWatch(Watch):
    """A watch that is told by `Wakeup.announce`."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.row = None
        self.expected = False

    def tell(self, row: ResultRow | None = None) -> None:
        self.row = row
        self._event.set()

    def wait(self, timeout: float | None = None) -> bool:
        told = self._event.wait(timeout)
        self._event.clear()
        return told


class _Stop:
    """An event that can also be waited for together with a socket."""

    def __init__(self) -> None:
        self._set = False
        self._rung = threading.Event()
        self._hurried_until = 0.0
        self._pair: tuple[socket.socket, socket.socket] | None = None
        self._mutex = threading.Lock()

    def set(self) -> None:
        self._set = True
        self._ring()

    def hurry(self) -> None:
        self._hurried_until = _real.monotonic() + 1.0
        self._ring()

    def hurried(self) -> bool:
        return _real.monotonic() < self._hurried_until

    def wait(self, seconds: float) -> bool:
        """Wait for `set`, `hurry`, or the time; whether it is `set`."""
        self._rung.wait(seconds)
        self._rung.clear()
        return self._set

    def wait_with(self, other: int, seconds: float) -> bool:
        """As `wait`, and for something to read from the file descriptor `other`."""
        with self._mutex:
            if self._pair is None:
                self._pair = socket.socketpair()
                self._pair[0].setblocking(False)
                self._pair[1].setblocking(False)
            mine = self._pair[0]
        if not self._set:
            with selectors.DefaultSelector() as selector:
                selector.register(mine, selectors.EVENT_READ)
                selector.register(other, selectors.EVENT_READ)
                selector.select(seconds)
        with suppress(OSError):
            mine.recv(1024)
        return self._set

    def _ring(self) -> None:
        self._rung.set()
        with self._mutex, suppress(OSError):
            if self._pair is not None:
                self._pair[1].send(b"x")

    def close(self) -> None:
        with self._mutex:
            self.abandon()

    def abandon(self) -> None:
        for end in self._pair or ():
            end.close()
        self._pair = None


def _call(callbacks: dict[int, Callback]) -> None:
    for callback in list(callbacks.values()):
        try:
            callback()
        except Exception:
            logger.exception("A callback for changes in the store failed: %r", callback)
