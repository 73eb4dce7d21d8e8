"""Where coroutine tasks run: a loop in a thread of its own, or the loop of the program."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any

from celerylite.exceptions import SoftTimeLimitExceeded, WorkerLostError

__all__ = ("Interruptible", "LoopThread", "finished")


def finished(value: Any) -> Any:
    """`value`; if it is a coroutine, what it returns. Blocks this thread until it has ended."""
    if not inspect.iscoroutine(value):
        return value
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(value)
    return _in_new_thread(value)


def _in_new_thread(coroutine: Coroutine[Any, Any, Any]) -> Any:
    # A loop runs in this thread already (an eager call inside a coroutine) and cannot be entered twice.
    outcome: list[tuple[bool, Any]] = []
    context = copy_context()

    def work() -> None:
        try:
            outcome.append((True, context.run(asyncio.run, coroutine)))
        except BaseException as exc:
            outcome.append((False, exc))

    thread = threading.Thread(target=work, name="celerylite-eager", daemon=True)
    thread.start()
    thread.join()
    succeeded, value = outcome[0]
    if succeeded:
        return value
    raise value


class Interruptible:
    """A coroutine that can be told from outside to stop, by an exception raised inside it.

    `asyncio.Task.cancel` can only raise CancelledError; tasks expect to catch SoftTimeLimitExceeded.
    """

    __slots__ = ("_coroutine", "_pending", "_task")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._task: asyncio.Task[Any] | None = None
        self._pending: BaseException | None = None

    async def run(self) -> Any:
        """The value of the coroutine, or what it raises."""
        self._task = asyncio.current_task()
        try:
            return await self._drive()
        except (SystemExit, KeyboardInterrupt) as exc:
            # Would end the whole loop: a task that exits is a lost task, as with a child process of Celery's.
            raise WorkerLostError(repr(exc)) from exc

    def interrupt(self, exc: BaseException) -> None:
        """Raise `exc` inside the coroutine where it waits. Must be called on the loop's thread."""
        if self._task is not None and self._task.done():
            return  # It has ended by itself.
        self._pending = exc
        if self._task is not None:
            self._task.cancel()

    @types.coroutine
    def _drive(self) -> Generator[Any, Any, Any]:
        send: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        if self._pending is not None:
            # The limit was over before it began.
            value, send, self._pending = self._pending, self._coroutine.throw, None
        while True:
            try:
                awaited = send(value)
            except StopIteration as stop:
                return stop.value
            try:
                value, send = (yield awaited), self._coroutine.send
            except asyncio.CancelledError as exc:
                value, send = self._reason(exc), self._coroutine.throw
            except BaseException as exc:
                value, send = exc, self._coroutine.throw

    def _reason(self, cancelled: BaseException) -> BaseException:
        reason, self._pending = self._pending, None
        if reason is None:
            return cancelled
        if self._task is not None and isinstance(reason, SoftTimeLimitExceeded):
            self._task.uncancel()
        return reason


class LoopThread:
    """An asyncio loop, in its own thread that starts with the first coroutine, or the program's own."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._mutex = threading.Lock()
        #: The program's own loop, if there is one; otherwise that of our thread.
        self._adopted = loop
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def adopt(self, loop: asyncio.AbstractEventLoop) -> None:
        """Run coroutines on `loop`, the program's own, from now on. Those that run stay where they are."""
        with self._mutex:
            self._adopted = loop

    def run(
        self,
        coroutine: Interruptible,
        context: Context,
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        """Run `coroutine` in `context` and call `done(value, exception)` on the loop's thread. Thread-safe.

        `done` must not block.
        """
        self._running_loop().call_soon_threadsafe(self._start, coroutine, context, done)

    def call(self, function: Callable[..., None], *args: Any) -> None:
        """Call `function` on the loop's thread, soon. Thread-safe; does nothing once it has ended."""
        with contextlib.suppress(RuntimeError):
            self._running_loop().call_soon_threadsafe(function, *args)

    def _start(
        self,
        coroutine: Interruptible,
        context: Context,
        done: Callable[[Any, BaseException | None], None],
    ) -> None:
        task = asyncio.get_running_loop().create_task(coroutine.run(), context=context)
        self._tasks.add(task)

        def finish(ended: asyncio.Task[Any]) -> None:
            self._tasks.discard(ended)
            if ended.cancelled():
                done(None, asyncio.CancelledError())
            elif ended.exception() is not None:
                done(None, ended.exception())
            else:
                done(ended.result(), None)

        task.add_done_callback(finish)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._mutex:
            # A program's loop may end before the runtime does.
            if self._adopted is not None and not self._adopted.is_closed():
                return self._adopted
            if self._loop is None:
                ready = threading.Event()
                self._thread = threading.Thread(
                    target=self._serve, args=(ready,), name="celerylite-loop", daemon=True
                )
                self._thread.start()
                ready.wait()
            loop = self._loop
        if loop is None:
            raise RuntimeError("the event loop for coroutine tasks did not start")
        return loop

    def _serve(self, ready: threading.Event) -> None:
        with asyncio.Runner() as runner:
            self._loop = runner.get_loop()
            ready.set()
            runner.get_loop().run_forever()

    def stop(self, timeout: float | None = 5.0) -> None:
        """End the thread, cancelling what still runs. A loop of the program goes on."""
        with self._mutex:
            thread, loop, self._thread = self._thread, self._loop, None
        if thread is None or loop is None:
            return  # Never started, or not ours.
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout)
        self._loop = None
