"""Time limits and rate limits: how a running task is interrupted, and how starts are spread."""

from __future__ import annotations

import ctypes
import heapq
import itertools
import sys
import threading
from collections.abc import Callable

from kombu.utils.limits import TokenBucket

from celerylite import _clock, _interrupts
from celerylite.utils.time import rate
from celerylite.worker._keeper import Keeper

__all__ = ("Deadlines", "RateLimits", "ThreadGuard")


#: How often, and with what pauses in seconds, an interrupt waits for a thread to have written to the log.
_LOG_TRIES, _LOG_PAUSE_S = 1000, 0.001


class ThreadGuard:
    """One run of a task in a thread, so that another thread may raise an exception inside it.

    Python delivers such an exception at the next bytecode: a thread that waits in C code gets it when
    that call returns. Method: `PyThreadState_SetAsyncExc` of the C API.
    """

    __slots__ = ("_early", "_ended", "_held", "_mutex", "_sent", "_thread_id")

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._thread_id: int | None = None
        #: Blocks inside the run that may not be interrupted now.
        self._held = 0
        #: Asked for before the run had begun, or while it was held.
        self._early: type[BaseException] | None = None
        self._ended = False
        #: An exception was set on the thread; it may have been raised since.
        self._sent = False

    def run(self, work: Callable[[], None]) -> BaseException | None:
        """Call `work` in this thread. Returns what was raised and not caught inside it; raises nothing.

        `interrupt` may have an effect at any bytecode in here, and has none any more once this returned.
        """
        late: BaseException | None = None
        try:
            try:
                self._begin()
                work()
            finally:
                self._end()
        except BaseException as exc:
            late = exc
        # Again, and once more: an interrupt may have come before the one above had its effect.
        try:
            self._end()
        except BaseException as exc:
            late = exc
            self._end()
        return late

    def _begin(self) -> None:
        with self._mutex:
            self._thread_id = threading.get_ident()
            early, self._early = self._early, None
        _interrupts.use(self)
        if early is not None:
            raise early

    def _end(self) -> None:
        _interrupts.use(None)
        with self._mutex:
            self._ended, self._thread_id = True, None
            sent, self._sent = self._sent, False
        if sent:
            _take_back()

    def hold(self) -> None:
        """Raise nothing inside the run until `let_go`. Called by the run itself."""
        counted = 0
        try:
            with self._mutex:
                self._held, counted = self._held + 1, 1
        except BaseException:
            self._held -= counted
            raise

    def let_go(self) -> None:
        """Undo `hold`, and raise what came meanwhile."""
        with self._mutex:
            self._held -= 1
            late = None
            if self._held == 0:
                late, self._early = self._early, None
        if late is not None:
            raise late

    def interrupt(self, exc: type[BaseException]) -> bool:
        """Raise `exc` inside the run; False when it has ended, or when it is the run itself that asks.

        May block for a moment, while the run writes to the log.
        """
        pause = threading.Event()
        for last in [False] * _LOG_TRIES + [True]:
            with self._mutex:
                if self._thread_id == threading.get_ident():
                    return False
                if self._thread_id is None or self._held:
                    if not self._ended:
                        self._early = exc
                    return not self._ended
                if last or not _is_logging(self._thread_id):
                    self._sent = True
                    _set_async_exception(self._thread_id, exc)
                    return True
            pause.wait(_LOG_PAUSE_S)
        return False


def _is_logging(thread_id: int) -> bool:
    """Whether a thread is inside the standard library's logging.

    An exception that is raised there may leave the lock of a handler taken for ever, and with it everybody
    who logs. The answer may be old by a few bytecodes; that is as near as Python lets us come.
    """
    frame = sys._current_frames().get(thread_id)
    while frame is not None:
        if frame.f_globals.get("__name__") == "logging":
            return True
        frame = frame.f_back
    return False


def _set_async_exception(thread_id: int, exc: type[BaseException] | None) -> None:
    target = ctypes.py_object(exc) if exc is not None else ctypes.py_object()
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), target)


class _Cleared(BaseException):
    """Raised in place of what was taken back."""


def _take_back() -> None:
    """Keep an exception that was set on this thread, and has not been raised yet, from being raised."""
    here = threading.get_ident()
    _set_async_exception(here, None)
    # Up to Python 3.12 the flag that there is one stays: the whole program would look for it at every turn
    # from now on, at a fourth of its speed. Raising one takes it down.
    try:
        _set_async_exception(here, _Cleared)
        for _ in range(1000):
            continue  # It comes at the first turn.
        _set_async_exception(here, None)
    except _Cleared:
        return  # That was it.


class Deadlines:
    """Calls functions at their time, on a thread that starts with the first deadline. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._cancelled: set[int] = set()
        self._numbers = itertools.count()
        self._keeper: Keeper | None = None

    def at(self, after: float, call: Callable[[], None]) -> int:
        """Call `call` in `after` seconds; it must be quick. Returns the number that cancels it."""
        number = next(self._numbers)
        with self._mutex:
            heapq.heappush(self._heap, (_clock.monotonic() + after, number, call))
            if self._keeper is None:
                self._keeper = Keeper("celerylite-limits")
                self._keeper.add("time limits", self._call_due, after=None)
                self._keeper.start()
            keeper = self._keeper
        keeper.ask("time limits", after)
        return number

    def cancel(self, number: int) -> None:
        """Do not call it any more."""
        with self._mutex:
            self._cancelled.add(number)
            if len(self._cancelled) > len(self._heap) // 2:
                # Most limits are never reached: do not keep what was cancelled until its time comes.
                self._heap = [entry for entry in self._heap if entry[1] not in self._cancelled]
                heapq.heapify(self._heap)
                self._cancelled.clear()

    def _call_due(self) -> float | None:
        while True:
            with self._mutex:
                if not self._heap:
                    self._cancelled.clear()
                    return None
                when, number, call = self._heap[0]
                left = when - _clock.monotonic()
                if left > 0 and number not in self._cancelled:
                    return left
                heapq.heappop(self._heap)
                if number in self._cancelled:
                    self._cancelled.discard(number)
                    continue
            call()

    def stop(self) -> None:
        """End the thread."""
        if self._keeper is not None:
            self._keeper.stop()


class RateLimits:
    """How often tasks may start in this runtime. Algorithm: token buckets (kombu's), as in Celery."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._buckets: dict[str, tuple[object, TokenBucket | None]] = {}

    def is_limited(self, name: str, limit: object) -> bool:
        """Whether starts of the task are counted at all."""
        return self._bucket(name, limit) is not None

    def wait(self, name: str, limit: object) -> float:
        """0.0 and count a start, or the seconds until one is allowed."""
        bucket = self._bucket(name, limit)
        with self._mutex:
            if bucket is None or bucket.can_consume(1):
                return 0.0
            return max(float(bucket.expected_time(1)), 0.001)

    def _bucket(self, name: str, limit: object) -> TokenBucket | None:
        with self._mutex:
            known = self._buckets.get(name)
            if known is None or known[0] != limit:
                per_second = rate(limit) if limit else 0
                known = (limit, TokenBucket(per_second, capacity=1) if per_second else None)
                self._buckets[name] = known
            return known[1]
