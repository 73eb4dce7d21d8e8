"""The threads in which plain functions run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from celerylite.utils.log import get_logger

__all__ = ("ThreadPool",)

logger = get_logger(__name__)

Job = Callable[[], None]


class ThreadPool:
    """Up to `limit` daemon threads, started one by one as jobs need them. Thread-safe.

    A job beyond the limit waits for a thread. Daemon threads, because a task that never ends must not
    keep the program from ending.
    """

    def __init__(self, name: str, limit: int) -> None:
        self._name = name
        self._limit = limit
        self._mutex = threading.Lock()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._threads: set[threading.Thread] = set()
        #: Jobs that were given and have not ended.
        self._unfinished = 0
        self._started = 0
        self._stopped = False

    def submit(self, job: Job) -> None:
        """Run `job` in one of the threads, soon.

        When no thread can be started any more (the interpreter is ending), runs it here.
        """
        if self._stopped:
            # The last words of what was interrupted by the stop: a thread that ends with them.
            threading.Thread(target=job, name=f"{self._name}-late", daemon=True).start()
        elif self._has_thread_for_one_more():
            self._jobs.put(job)
        else:
            job()

    def _has_thread_for_one_more(self) -> bool:
        with self._mutex:
            self._unfinished += 1
            # Not "is one idle": a job that had to wait for a thread is taken by one that was never idle.
            if len(self._threads) < min(self._unfinished, self._limit):
                self._grow()
            self._unfinished -= not self._threads
            return bool(self._threads)

    def _grow(self) -> None:
        self._started += 1
        thread = threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return  # No new threads at interpreter shutdown (Python 3.12).
        self._threads.add(thread)

    def replace_one(self) -> None:
        """Allow one thread more: one of them was given up and does not count any more."""
        with self._mutex:
            self._limit += 1

    def resize(self, limit: int) -> None:
        """Change the number of threads; those too many end when their job does."""
        with self._mutex:
            surplus = len(self._threads) - limit
            self._limit = limit
        for _ in range(max(0, surplus)):
            self._jobs.put(None)

    def _work(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                if self._is_surplus():
                    return
                continue
            try:
                job()
            except BaseException:
                # Jobs settle their own failures; what arrives here is a defect and must be seen.
                logger.critical(
                    "Unhandled error in thread %s", threading.current_thread().name, exc_info=True
                )
            del job
            with self._mutex:
                self._unfinished -= 1

    def _is_surplus(self) -> bool:
        """Whether this thread is to end; then it does not count any more."""
        with self._mutex:
            surplus = self._stopped or len(self._threads) > self._limit
            if surplus:
                self._threads.discard(threading.current_thread())
            return surplus

    def stop(self, timeout: float = 5.0) -> bool:
        """End the threads after what they do now; False when one did not end in `timeout` seconds."""
        with self._mutex:
            self._stopped = True
            threads = list(self._threads)
        for _ in threads:
            self._jobs.put(None)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout)
        return not any(thread.is_alive() for thread in threads)
