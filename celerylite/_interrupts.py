"""Interrupts that wait: an exception sent into a thread is put off while it holds what others need."""

from __future__ import annotations

import threading
from typing import Protocol

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
    """``with uninterrupted():`` puts interrupts off until the end of the block. Blocks may be nested."""

    __slots__ = ("_run",)

    def __enter__(self) -> None:
        self._run = _here.run
        if self._run is not None:
            self._run.hold()

    def __exit__(self, *raised: object) -> None:
        if self._run is not None:
            self._run.let_go()
