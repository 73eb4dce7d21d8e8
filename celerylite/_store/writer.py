"""The writer: callers that arrive together share one transaction, led by one of them."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

from kombu.exceptions import OperationalError

from celerylite._interrupts import uninterrupted
from celerylite._store import Done
from celerylite._store.engine import Changes, Database, Transaction
from celerylite._store.unanswered import OneStatement

__all__ = ("Work", "Writer")

logger = logging.getLogger("celery.store")

T = TypeVar("T")
Work = Callable[[Transaction], T]

#: Callers in one transaction. Longer ones only delay those who are in them.
_TOGETHER = 256

#: So much work that nobody waits for is worth a transaction of its own, without waiting for more.
_WORTHWHILE = 32

#: Windows for which such work waits at most, while more and more of it comes.
_WINDOWS = 20

#: Windows for each work that came in the wait before: with fewer, a task a millisecond never gathers.
_WINDOWS_PER_WORK = 4

#: Seconds without work after which the writer's thread ends.
_IDLE_S = 1.0


class Writer:
    """All writes of one process, one transaction at a time.

    A caller that comes alone commits on its own thread, with no hop. Callers that come while another
    commits wait; when it is done one of them leads: it runs all of their work in one transaction and
    tells the others. If the shared transaction fails, each runs alone, so that nobody fails for another.

    Work that nobody waits for is left to gather: `together` does several works in one transaction for less
    than each would cost, and returns what each returned.
    """

    def __init__(
        self,
        database: Database,
        announce: Callable[[Changes], None],
        window_s: float,
        together: Callable[[Transaction, Sequence[Work[Any]]], list[Any]],
    ) -> None:
        self._database = database
        self._announce = announce
        self._window_s = window_s
        self._together = together
        self._begin()

    def _begin(self) -> None:
        self._lead = threading.Lock()
        #: Work that somebody waits for.
        self._queue: deque[_Entry[Any]] = deque()
        #: Work that nobody waits for, and the part of it that is not committed yet.
        self._lazy: deque[_Entry[Any]] = deque()
        self._later: set[_Entry[Any]] = set()
        #: How much of it came since the thread looked last. Counted without a lock: a guess will do.
        self._came = 0
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._hurry = threading.Event()
        #: The thread has been told that something waits.
        self._told = False
        self._thread: threading.Thread | None = None
        self._resting = False
        self._closed = False

    def after_fork(self) -> None:
        """Fresh locks; what the parent's callers were waiting for is the parent's to do."""
        self._begin()

    def run(self, work: Work[T], *, takes_along: bool = True) -> T:
        """Commit `work` and return what it returned. Blocks.

        What nobody waits for is committed with it; without `takes_along`, only where much of it waits.
        """
        with uninterrupted():
            return self._run(work, 0 if takes_along else _WORTHWHILE)

    def _run(self, work: Work[T], left_behind: int) -> T:
        if not self._queue and len(self._lazy) <= left_behind and self._lead.acquire(blocking=False):
            try:
                return self._commit(work)
            finally:
                self._lead.release()
                self._hand_over()
        entry = _Entry(work)
        self._queue.append(entry)
        while not entry.over:
            # Appended before this try and handed over after each release: nobody is left waiting.
            if self._lead.acquire(blocking=False):
                self._lead_and_release()
            else:
                entry.wait()
        return entry.outcome()

    def run_soon(self, work: Work[T], done: Done[T]) -> None:
        """Commit `work` on the writer's thread, then call `done`. Does not block."""
        self._queue.append(_Entry(work, done))
        if not self._hurry.is_set():
            self._hurry.set()
        self._tell_thread()

    def run_later(self, work: Work[T], done: Done[T]) -> None:
        """Commit `work` together with others, then call `done`.

        It waits for one window, or for up to twenty if much came in the wait before. Does not block, unless
        so much waits already that its own caller has to commit some of it. Raises nothing.
        """
        entry = _Entry(work, done)
        self._later.add(entry)
        self._lazy.append(entry)
        self._came += 1
        if len(self._later) > _TOGETHER:
            self.flush()
        elif len(self._lazy) >= _WORTHWHILE and not self._hurry.is_set():
            self.nudge()
        else:
            self._tell_thread()

    def flush(self) -> None:
        """Return when everything that was given to `run_later` so far is committed. Blocks."""
        if not self._later:
            return
        with uninterrupted():
            pending = list(self._later)
            while not all(entry.over for entry in pending):
                self._lead.acquire()
                self._lead_and_release()

    def rest(self) -> None:
        """`flush`, and end the thread until it is needed again. Blocks."""
        self.flush()
        with self._mutex:
            thread, self._resting = self._thread, True
        self._hurry.set()
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._resting = False

    @property
    def ends(self) -> bool:
        """Whether its thread is to end, for good or until it is needed again."""
        return self._closed or self._resting

    def nudge(self) -> None:
        """Commit what waits: here, if nobody leads just now, else on the writer's thread right afterwards."""
        with uninterrupted():
            if self._lead.acquire(blocking=False):
                self._lead_and_release()
            else:
                self._hurry.set()
                self._tell_thread()

    def quiet(self, work: Callable[[], T]) -> T | None:
        """Run `work` as leader if nobody else leads just now, else return None."""
        if not self._lead.acquire(blocking=False):
            return None
        try:
            return work()
        finally:
            self._lead.release()
            self._hand_over()

    def alone(self, work: Callable[[], T]) -> T:
        """Run `work` while nobody writes. Blocks."""
        with uninterrupted():
            self.hold()
            try:
                return work()
            finally:
                self.let_go()

    def hold(self) -> None:
        """Let nobody write until `let_go`."""
        self._lead.acquire()

    def let_go(self) -> None:
        self._lead.release()
        self._hand_over()

    def close(self) -> None:
        """Commit what nobody waits for and end the thread."""
        with self._mutex:
            self._closed = True
            thread = self._thread
        self._hurry.set()
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with uninterrupted():
            self._commit_all()

    # -- leading ------------------------------------------------------------------------------------

    def _lead_and_release(self) -> None:
        """As the one who leads: commit what waits, let others lead, and tell those whose work it was."""
        ended: list[_Entry[Any]] = []
        try:
            self._commit_together(ended)
        finally:
            self._lead.release()
            self._hand_over()
            # After the release: who is told may want to write.
            for entry in ended:
                entry.tell()

    def _commit_together(self, ended: list[_Entry[Any]]) -> None:
        batch = self._batch()
        if len(batch) < 2:
            self._commit_one_by_one(batch, ended)
            return
        try:
            results = self._commit(lambda tx: self._together(tx, [entry.work for entry in batch]))
        except OperationalError as error:
            # The database is away: running each alone would only wait as long again for each.
            for entry in batch:
                self._end(entry, ended, error=error)
        except Exception:
            self._commit_one_by_one(batch, ended)
        except BaseException as error:
            # Interrupts wait while a thread leads. Whatever this is: nobody may wait for ever.
            for entry in batch:
                self._end(entry, ended, error=error)
            raise
        else:
            for entry, result in zip(batch, results, strict=True):
                self._end(entry, ended, result)

    def _commit_one_by_one(self, batch: deque[_Entry[Any]], ended: list[_Entry[Any]]) -> None:
        while batch:
            entry = batch.popleft()
            try:
                result = self._commit(entry.work)
            except OperationalError as error:
                self._end(entry, ended, error=error)
                # For the next one who leads, together: each alone might wait as long again.
                self._queue.extendleft(reversed(batch))
                return
            except Exception as error:
                self._end(entry, ended, error=error)
            except BaseException as error:
                self._end(entry, ended, error=error)
                self._queue.extendleft(reversed(batch))
                raise
            else:
                self._end(entry, ended, result)

    def _end(
        self,
        entry: _Entry[Any],
        ended: list[_Entry[Any]],
        result: Any = None,
        error: BaseException | None = None,
    ) -> None:
        entry.result, entry.error, entry.over = result, error, True
        self._later.discard(entry)
        ended.append(entry)

    def _commit(self, work: Work[T]) -> T:
        changes = Changes()

        def noted(tx: Transaction) -> T:
            nonlocal changes
            result = work(tx)
            changes = tx.changes
            return result

        one: OneStatement[T] | None = work if isinstance(work, OneStatement) else None
        result = self._database.write(noted, one)
        if changes:
            self._announce(changes)
        return result

    def _batch(self) -> deque[_Entry[Any]]:
        """What is committed together. What nobody waits for comes first: the rest may build on it."""
        batch: deque[_Entry[Any]] = deque()
        while self._queue and len(batch) < _TOGETHER:
            batch.append(self._queue.popleft())
        lazy: list[_Entry[Any]] = []
        while self._lazy and len(batch) + len(lazy) < _TOGETHER:
            lazy.append(self._lazy.popleft())
        batch.extendleft(reversed(lazy))
        return batch

    def _hand_over(self) -> None:
        # After the release, always: whoever came while we led could not lead.
        try:
            first = self._queue[0]
        except IndexError:
            if self._lazy:
                self._tell_thread()
            return
        if first.done is None:
            first.call()
        else:
            self._hurry.set()
            self._tell_thread()

    def _waits(self) -> bool:
        return bool(self._queue or self._lazy)

    def _commit_all(self) -> None:
        while self._waits():
            self._lead.acquire()
            self._lead_and_release()

    # -- the thread for callers that do not wait ----------------------------------------------------

    def _tell_thread(self) -> None:
        if self._told:
            return  # It has not begun to look since, or looks again by itself.
        self._told = True
        self._wake.set()
        # With the lock, always: a thread that is about to end has looked, and has not said so yet.
        with self._mutex:
            if self._thread is not None or self._start():
                return
            self._told = False
        # No new threads when the interpreter ends: then it is the caller's to do, or of who leads just now.
        if self._lead.acquire(blocking=False):
            self._lead_and_release()

    def _start(self) -> bool:
        thread = threading.Thread(target=self._serve, name="celerylite-writer", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def _serve(self) -> None:
        windows = 1
        while True:
            woken = self._wake.wait(_IDLE_S)
            self._wake.clear()
            came = self._came
            # As long as more comes it looks again by itself: waking it for each costs more than the look.
            while came and not self.ends:
                if not self._queue:
                    # Until somebody comes who wants it now, or the window is over, others may take it along.
                    self._hurry.wait(self._window_s * windows)
                self._hurry.clear()
                came, self._came = self._came, 0
                windows = max(1, min(_WINDOWS, _WINDOWS_PER_WORK * came))
                self._commit_all()
            # In this order: who came before the flag falls is committed here, who comes after wakes us.
            self._hurry.clear()
            self._told = False
            self._commit_all()
            with self._mutex:
                if (
                    (self._closed or self._resting or not woken)
                    and not self._waits()
                    and not self._wake.is_set()
                ):
                    self._thread = None
                    return


class _Entry(Generic[T]):
    """One caller's work, and how it learns what came out."""

    __slots__ = ("_called", "done", "error", "over", "result", "work")

    def __init__(self, work: Work[T], done: Done[T] | None = None) -> None:
        self.work = work
        #: Called when it is over; None: somebody waits.
        self.done = done
        self.over = False
        self.result: T | None = None
        self.error: BaseException | None = None
        # A lock, not an Event: it takes a third of the time, and each contended commit makes one.
        self._called = threading.Lock() if done is None else None
        if self._called is not None:
            self._called.acquire()

    def wait(self) -> None:
        """Block until `call`."""
        if self._called is not None:
            self._called.acquire()

    def call(self) -> None:
        """Have the waiting caller look again: its work is done, or it is to lead."""
        if self._called is not None:
            with suppress(RuntimeError):  # Called already, and it has not looked yet.
                self._called.release()

    def tell(self) -> None:
        """Tell whose work it is that it is over."""
        if self.done is None:
            self.call()
            return
        try:
            self.done(self.result, self.error)
        except Exception:
            # Others have still to be told of theirs.
            logger.exception("What should follow a commit failed: %r", self.done)

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]
