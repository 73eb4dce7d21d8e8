"""The writer: callers that arrive together share one transaction, led by one of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from kombu.exceptions import OperationalError

from celerylite._interrupts import uninterrupted
from celerylite._store.engine import Changes, Database, Transaction

__all__ = ("Writer",)

T = TypeVar("T")
Work = Callable[[Transaction], T]

#: Callers in one transaction. Longer ones only delay those who are in them.
_TOGETHER = 256

#: Seconds without work after which the writer's thread ends.
_IDLE_S = 1.0


class Writer:
    """All writes of one process, one transaction at a time.

    A caller that comes alone commits on its own thread, with no hop. Callers that come while another
    commits wait; when it is done one of them leads: it runs all of their work in one transaction and
    tells the others. If the shared transaction fails, each runs alone, so that nobody fails for another.
    """

    def __init__(self, database: Database, announce: Callable[[Changes], None]) -> None:
        self._database = database
        self._announce = announce
        self._begin()

    def _begin(self) -> None:
        self._lead = threading.Lock()
        self._queue: deque[_Entry[Any]] = deque()
        self._mutex = threading.Lock()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._closed = False

    def after_fork(self) -> None:
        """Fresh locks; what the parent's callers were waiting for is the parent's to do."""
        self._begin()

    def run(self, work: Work[T]) -> T:
        """Commit `work` and return what it returned. Blocks."""
        with uninterrupted():
            return self._run(work)

    def _run(self, work: Work[T]) -> T:
        if not self._queue and self._lead.acquire(blocking=False):
            try:
                return self._alone(work)
            finally:
                self._lead.release()
                self._hand_over()
        entry = _Entry(work)
        self._queue.append(entry)
        while not entry.done.is_set():
            # Appended before this try and handed over after each release: nobody is left waiting.
            if self._lead.acquire(blocking=False):
                try:
                    self._together()
                finally:
                    self._lead.release()
                    self._hand_over()
            else:
                entry.called.wait()
                entry.called.clear()
        return entry.outcome()

    def run_soon(self, work: Work[T]) -> Future[T]:
        """Commit `work` on the writer's thread. Does not block."""
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        self._queue.append(_Entry(work, future))
        self._start()
        return future

    def quiet(self, work: Callable[[], T]) -> T | None:
        """Run `work` as leader if nobody else leads just now, else return None."""
        if not self._lead.acquire(blocking=False):
            return None
        try:
            return work()
        finally:
            self._lead.release()
            self._hand_over()

    def hold(self) -> None:
        """Let nobody write until `let_go`."""
        self._lead.acquire()

    def let_go(self) -> None:
        self._lead.release()
        self._hand_over()

    def close(self) -> None:
        """Commit what was given to `run_soon` and end the thread."""
        with self._mutex:
            self._closed = True
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._lead:
            while self._queue:
                self._together()

    # -- leading ------------------------------------------------------------------------------------

    def _alone(self, work: Work[T]) -> T:
        changes = Changes()

        def noted(tx: Transaction) -> T:
            nonlocal changes
            result = work(tx)
            changes = tx.changes
            return result

        result = self._database.write(noted)
        if changes:
            self._announce(changes)
        return result

    def _together(self) -> None:
        batch = self._batch()
        if len(batch) == 1:
            self._one(batch[0])
        elif batch:
            try:
                results = self._alone(lambda tx: [entry.work(tx) for entry in batch])
            except OperationalError as error:
                # The database is away: running each alone would only wait as long again for each.
                for entry in batch:
                    entry.fail(error)
            except Exception:
                for entry in batch:
                    self._one(entry)
            except BaseException:
                # This thread is interrupted; somebody else will lead.
                self._queue.extendleft(reversed(batch))
                raise
            else:
                for entry, result in zip(batch, results, strict=True):
                    entry.succeed(result)

    def _one(self, entry: _Entry[Any]) -> None:
        try:
            result = self._alone(entry.work)
        except Exception as error:
            entry.fail(error)
        except BaseException:
            self._queue.appendleft(entry)
            raise
        else:
            entry.succeed(result)

    def _batch(self) -> list[_Entry[Any]]:
        batch: list[_Entry[Any]] = []
        while self._queue and len(batch) < _TOGETHER:
            batch.append(self._queue.popleft())
        return batch

    def _hand_over(self) -> None:
        # After the release, always: whoever came while we led could not lead.
        try:
            first = self._queue[0]
        except IndexError:
            return
        if first.future is None:
            first.called.set()
        else:
            self._start()

    # -- the thread for callers that do not wait ----------------------------------------------------

    def _start(self) -> None:
        self._wake.set()
        # With the lock, always: a thread that is about to end has looked, and has not said so yet.
        with self._mutex:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="celerylite-writer", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        while True:
            woken = self._wake.wait(_IDLE_S)
            self._wake.clear()
            while self._queue:
                with self._lead:
                    self._together()
                self._hand_over()
            with self._mutex:
                if (self._closed or not woken) and not self._queue and not self._wake.is_set():
                    self._thread = None
                    return


class _Entry(Generic[T]):
    """One caller's work, and how it learns what came out."""

    __slots__ = ("called", "done", "error", "future", "result", "work")

    def __init__(self, work: Work[T], future: Future[T] | None = None) -> None:
        self.work = work
        self.future = future
        #: Set to have the waiting caller look again: its work is done, or it is to lead.
        self.called = threading.Event()
        self.done = threading.Event()
        self.result: T | None = None
        self.error: BaseException | None = None

    def succeed(self, result: T) -> None:
        self.result = result
        self.done.set()
        self.called.set()
        if self.future is not None:
            self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        self.error = error
        self.done.set()
        self.called.set()
        if self.future is not None:
            self.future.set_exception(error)

    def outcome(self) -> T:
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]
