"""The threads in which plain functions run."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from celerylite import _clock
from celerylite.utils.log import get_logger

__all__ = ("ThreadPool",)

logger = get_logger(__name__)

Job = Callable[[], None]

#: Threads take real time, whatever clock a test has put in place.
_real = _clock.Clock()

#: Seconds that a job is left to the threads that run already.
_PATIENCE_S = 0.001


class ThreadPool:
    """Up to `limit` daemon threads, started one by one as jobs need them. Thread-safe.

    Each thread that works competes with the others for the interpreter: ten that share a thousand short jobs
    take twice the time of one. So a job that comes while others run is left to their threads for a
    millisecond. One idle thread stands by meanwhile; if they do not get to the job, it begins, and wakes
    another for the job behind. So long jobs run at once all the same.

    A job beyond the limit waits for a thread. Daemon threads, because a task that never ends must not
    keep the program from ending.
    """

    def __init__(self, name: str, limit: int, patience_s: float = _PATIENCE_S) -> None:
        self._name = name
        self._limit = limit
        self._patience_s = patience_s
        self._changed = threading.Condition(threading.Lock())
        #: When each job was given, and the job.
        self._jobs: deque[tuple[float, Job]] = deque()
        #: One of them was submitted behind the others.
        self._has_one_behind = False
        self._threads: set[threading.Thread] = set()
        #: Threads that count no more, see `replace_one`.
        self._given_up = 0
        self._started = 0
        self._busy = 0
        self._idle = 0
        #: A thread stands by for the first of the jobs.
        self._watched = False
        self._stopped = False

    def submit(self, job: Job) -> None:
        """Run `job` in one of the threads, soon.

        When no thread can be started any more (the interpreter is ending), runs it here.
        """
        if self._stopped:
            # The last words of what was interrupted by the stop: a thread that ends with them.
            try:
                threading.Thread(target=job, name=f"{self._name}-late", daemon=True).start()
            except RuntimeError:
                job()  # No new threads at interpreter shutdown.
            return
        with self._changed:
            self._jobs.append((_real.monotonic(), job))
            if not self._watched:
                self._call_one()
            if self._threads:
                return
            self._jobs.pop()
        job()

    def submit_behind(self, job: Job) -> bool:
        """Run `job` once those are taken that wait for a thread; False, and nothing else, when none wait.

        Does nothing where another such job waits already. For a thread of this pool that goes on with them.
        """
        if not self._jobs:
            return False
        with self._changed:
            if self._jobs and not self._has_one_behind:
                self._has_one_behind = True
                self._jobs.append((_real.monotonic(), partial(self._run_one_behind, job)))
            return bool(self._jobs)

    def _run_one_behind(self, job: Job) -> None:
        # First: who comes after this job has looked around needs another.
        self._has_one_behind = False
        job()

    def _call_one(self) -> None:
        """Have a thread look at the jobs: an idle one, or a new one."""
        if self._idle:
            self._changed.notify()
        elif len(self._threads) < self._limit:
            self._grow()

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
        with self._changed:
            self._limit += 1
            self._given_up += 1
            if self._jobs:
                self._call_one()

    def resize(self, limit: int) -> None:
        """Change the number of threads; those too many end when their job does."""
        with self._changed:
            self._limit = limit + self._given_up
            self._changed.notify_all()
            if self._jobs:
                self._call_one()

    def _work(self) -> None:
        goes_on = False
        while (job := self._next(goes_on)) is not None:
            goes_on = True
            try:
                job()
            except BaseException:
                # Jobs settle their own failures; what arrives here is a defect and must be seen.
                logger.critical(
                    "Unhandled error in thread %s", threading.current_thread().name, exc_info=True
                )
            del job

    def _next(self, goes_on: bool) -> Job | None:
        """The next job of the calling thread, which `goes_on` from another; None when it is to end."""
        with self._changed:
            self._busy -= goes_on
            while not self._is_surplus():
                left = self._left() if self._jobs else None
                if left is not None and (goes_on or self._busy <= 0 or left <= 0):
                    return self._take()
                goes_on = False
                self._wait(left)
            return None

    def _left(self) -> float:
        """Seconds that the first job is still left to those who work."""
        return self._jobs[0][0] + self._patience_s - _real.monotonic()

    def _wait(self, seconds: float | None) -> None:
        stands_by = seconds is not None and not self._watched
        self._watched = self._watched or stands_by
        self._idle += 1
        self._changed.wait(seconds if stands_by else None)
        self._idle -= 1
        if stands_by:
            self._watched = False

    def _take(self) -> Job:
        job = self._jobs.popleft()[1]
        self._busy += 1
        if self._jobs and not self._watched:
            self._call_one()
        return job

    def _is_surplus(self) -> bool:
        """Whether the calling thread is to end; then it does not count any more."""
        surplus = (self._stopped and not self._jobs) or len(self._threads) > self._limit
        if surplus:
            self._threads.discard(threading.current_thread())
            if self._jobs:
                self._call_one()
        return surplus

    def stop(self, timeout: float = 5.0) -> bool:
        """End the threads after what they do now; False when one did not end in `timeout` seconds."""
        with self._changed:
            self._stopped = True
            threads = list(self._threads)
            self._changed.notify_all()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout)
        return not any(thread.is_alive() for thread in threads)
