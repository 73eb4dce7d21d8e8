"""An attribute that is computed at its first use and then costs no more than any other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, Self, TypeVar, overload

__all__ = ("computed_once",)

T = TypeVar("T")


class computed_once(Generic[T]):
    """The return value of a method, kept on the instance. Thread-safe: the method runs once.

    Unlike kombu's `cached_property` it is found in the instance's own dictionary after the first time, with
    no call; unlike that of `functools` it has a lock, also from Python 3.12 on. May be set and deleted.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute = compute
        self._mutex = threading.RLock()
        self.__doc__ = compute.__doc__
        self.__module__ = compute.__module__

    def __set_name__(self, owner: type, name: str) -> None:
        self.__name__ = name

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...

    def __get__(self, instance: object | None, owner: type) -> T | Self:
        if instance is None:
            return self
        kept = vars(instance)
        with self._mutex:
            if self.__name__ not in kept:
                kept[self.__name__] = self._compute(instance)
        value: T = kept[self.__name__]
        return value
