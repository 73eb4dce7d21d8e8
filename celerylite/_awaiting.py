"""Awaiting: lets a coroutine wait for a result while a thread of its own does the blocking part."""

from __future__ import annotations

import asyncio
import threading
from asyncio import get_running_loop, to_thread, wrap_future
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ("get_running_loop", "in_thread", "to_thread", "wrap_future")

T = TypeVar("T")


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
