"""Awaiting: lets a coroutine wait for a result while a thread of its own does the blocking part."""

from __future__ import annotations

import asyncio
import threading
from asyncio import get_running_loop, to_thread
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakKeyDictionary, ref

if TYPE_CHECKING:
    from celerylite._store import Done

__all__ = ("get_running_loop", "in_thread", "to_thread", "told")

T = TypeVar("T")


async def told(begin: Callable[[Done[T]], None]) -> T:
    """What the callback that `begin` is given is called with, from any thread: a value, or an error to raise.

    A hundred coroutines whose callbacks come at once wake the loop once, not each for itself.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    begin(_inbox(loop).callback(outcome))
    return await outcome


class _Inbox:
    """What other threads have to tell the coroutines of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Weakly: the loop is the key by which this is kept.
        self._loop = ref(loop)
        self._ended: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._woken = False

    def callback(self, outcome: asyncio.Future[T]) -> Done[T]:
        def done(value: T | None, error: BaseException | None) -> None:
            self._ended.append((outcome, value, error))
            if not self._woken:
                # Before the call: `_deliver` may run at once, and then looks once more.
                self._woken = True
                self._wake()

        return done

    def _wake(self) -> None:
        loop = self._loop()
        try:
            if loop is not None:
                loop.call_soon_threadsafe(self._deliver)
        except RuntimeError:
            # A closed loop has nobody left to tell; anything else is a bug.
            if loop is None or not loop.is_closed():
                raise
            self._ended.clear()  # They hold the loop.

    def _deliver(self) -> None:
        self._woken = False
        while self._ended:
            outcome, value, error = self._ended.popleft()
            if outcome.done():
                continue  # Cancelled; what was begun goes on.
            if error is None:
                outcome.set_result(value)
            else:
                outcome.set_exception(error)


_inboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Inbox] = WeakKeyDictionary()


def _inbox(loop: asyncio.AbstractEventLoop) -> _Inbox:
    inbox = _inboxes.get(loop)
    if inbox is None:
        # Only threads of different loops are here at once.
        inbox = _inboxes[loop] = _Inbox(loop)
    return inbox


async def in_thread(get: Callable[..., T], **kwargs: Any) -> T:
    """``get(**kwargs)`` in a daemon thread, awaited.

    `get` takes ``on_interval``, a callable that it calls now and then while it waits; through it the
    thread ends soon after the awaiting coroutine was cancelled. A thread for each wait, not one of a
    pool: results may take for ever, and must neither starve other users of a pool nor hold up the end
    of the process.
    """
    wait = _Wait(asyncio.get_running_loop(), get, kwargs)
    threading.Thread(target=wait.run, name="celerylite-await", daemon=True).start()
    return await wait.outcome


class _Abandoned(Exception):
    """Raised in the waiting thread when nobody awaits its outcome any more."""


class _Wait(Generic[T]):
    """One wait: a thread runs it, a coroutine awaits its `outcome`."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, get: Callable[..., T], kwargs: dict[str, Any]
    ) -> None:
        self.loop = loop
        self.outcome: asyncio.Future[T] = loop.create_future()
        self._get = get
        self._kwargs = kwargs

    def run(self) -> None:
        try:
            value = self._get(on_interval=self._check, **self._kwargs)
        except _Abandoned:
            return  # cancelled: the coroutine is gone
        except BaseException as exc:
            self._tell(self._fail, exc)
        else:
            self._tell(self._succeed, value)

    def _check(self) -> None:
        if self.outcome.cancelled() or self.loop.is_closed():
            raise _Abandoned

    def _tell(self, deliver: Callable[[Any], None], value: Any) -> None:
        try:
            self.loop.call_soon_threadsafe(deliver, value)
        except RuntimeError:
            # A closed loop has nobody left to tell; anything else is a bug.
            if not self.loop.is_closed():
                raise

    def _succeed(self, value: T) -> None:
        if not self.outcome.done():
            self.outcome.set_result(value)

    def _fail(self, exc: BaseException) -> None:
        if not self.outcome.done():
            self.outcome.set_exception(exc)
