"""Interrupts that wait: an exception from outside is put off while a thread holds what others need."""

from __future__ import annotations

import os
import signal
import threading

# What `signal` wraps: turning handlers into members of an enum takes longer than setting them, and each call
# that is sent sets two.
from _signal import getsignal as _handler_of  # type: ignore[import-not-found]
from _signal import signal as _handle
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

__all__ = ("Interrupted", "uninterrupted", "use")


class Interrupted(Protocol):
    """A run of a task that may be told to stop by an exception raised inside it."""

    def hold(self) -> None:
        """Raise nothing inside it until `let_go`."""

    def let_go(self) -> None:
        """Raise now what came meanwhile."""


class _Here(threading.local):
    run: Interrupted | None = None


_here = _Here()


def use(run: Interrupted | None) -> None:
    """Say what runs in this thread."""
    _here.run = run


class uninterrupted:
    """``with uninterrupted():`` puts interrupts off until the end of the block. Blocks may be nested.

    In a thread that runs a task: what would stop the task. In the main thread: handlers of signals, which
    raise (Ctrl-C), or call what this thread is just doing.
    """

    __slots__ = ("_run",)

    def __enter__(self) -> None:
        run = _here.run
        if run is None and threading.get_ident() == _signals.main:
            run = _signals
        self._run = run
        if run is not None:
            run.hold()

    def __exit__(self, *raised: object) -> None:
        if self._run is not None:
            self._run.let_go()


Handler = Callable[[int, FrameType | None], Any]


class _Signals:
    """The signal handlers of the program, kept waiting. Only the main thread may set and run handlers."""

    #: Those whose handlers like to raise. What is not handled in Python ends the process as ever.
    _NUMBERS = tuple(
        int(getattr(signal, name))
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGALRM", "SIGUSR1", "SIGUSR2")
        if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.main = threading.main_thread().ident
        self._depth = 0
        self._handlers: dict[int, Handler] = {}
        self._came: list[tuple[int, FrameType | None]] = []

    def hold(self) -> None:
        self._depth += 1
        if self._depth > 1:
            return  # They wait already.
        for number in self._NUMBERS:
            handler = _handler_of(number)
            if callable(handler) and handler != self._note:
                # Known before it is replaced: a signal that comes in between finds its own handler.
                self._handlers[number] = handler
                _handle(number, self._note)

    def let_go(self) -> None:
        self._depth = max(0, self._depth - 1)
        if self._depth:
            return  # The outer block ends later.
        handlers, self._handlers = self._handlers, {}
        for number, handler in handlers.items():
            _handle(number, handler)
        while self._came:
            number, frame = self._came.pop(0)
            handlers[number](number, frame)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._came.append((number, frame))

    def after_fork(self) -> None:
        """The thread that forked is the main thread of the child, and nobody else is inside a block."""
        self.main = threading.get_ident()
        self._depth = 0
        self._came.clear()
        self.let_go()


_signals = _Signals()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_signals.after_fork)
