"""Schedules with many entries. As with contenders, a module loads its library only where it is measured."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib import import_module

__all__ = ("Scheduler", "make")


class Scheduler(ABC):
    """The part of a library that knows what is due and when. What one cannot do it leaves alone."""

    def load(self, count: int, *, one_due: bool) -> None:
        """Take `count` entries that are due tomorrow; if `one_due`, one more that is due at each tick."""
        raise NotImplementedError

    def tick(self) -> None:
        """Look what is due, and publish that."""
        raise NotImplementedError

    @abstractmethod
    def next_fire(self) -> None:
        """Work out when a crontab of every five minutes on weekdays from 8 to 18 is due next."""

    @abstractmethod
    def close(self) -> None:
        """Away with what `load` opened."""


def make(name: str) -> Scheduler:
    """The scheduler of a contender, made in this process."""
    scheduler: Scheduler = import_module(f"{__name__}.{name}_scheduler").make()
    return scheduler
