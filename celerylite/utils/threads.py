"""Values that belong to one thread or one coroutine."""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from threading import TIMEOUT_MAX as THREAD_TIMEOUT_MAX
from threading import get_ident
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from celerylite.local import Proxy

__all__ = (
    "bgThread",
    "Local",
    "LocalStack",
    "LocalManager",
    "get_ident",
    "default_socket_timeout",
)

T = TypeVar("T")


class LocalStack(Generic[T]):
    """A stack of which every thread and every coroutine sees its own.

    It holds an immutable tuple in a context variable: a coroutine starts with what its creator had, and what
    it pushes is not seen by anybody else.
    """

    def __init__(self) -> None:
        self._items: ContextVar[tuple[T, ...]] = ContextVar("LocalStack", default=())

    def push(self, obj: T) -> list[T]:
        """Put `obj` on top; the stack as it is then."""
        items = (*self._items.get(), obj)
        self._items.set(items)
        return list(items)

    def pop(self) -> T | None:
        """Take off the top and give it; None when there is nothing."""
        items = self._items.get()
        if not items:
            return None
        self._items.set(items[:-1])
        return items[-1]

    @property
    def top(self) -> T | None:
        """What was pushed last; None when there is nothing."""
        items = self._items.get()
        return items[-1] if items else None

    @property
    def stack(self) -> list[T]:
        """All of it, the top last; a copy."""
        return list(self._items.get())

    def __len__(self) -> int:
        return len(self._items.get())

    def __call__(self) -> Any:
        """A proxy of the top. Raises RuntimeError when it is used while there is nothing."""
        return Proxy(self._bound_top)

    def _bound_top(self) -> T:
        items = self._items.get()
        if not items:
            raise RuntimeError("object unbound")
        return items[-1]

    def __release_local__(self) -> None:
        self._items.set(())


#: Celery has a faster kind that knows threads only.
_LocalStack = _FastLocalStack = LocalStack


_EMPTY: Mapping[str, Any] = MappingProxyType({})


class Local:
    """Attributes of which every thread and every coroutine sees its own."""

    __slots__ = ("_values",)
    _values: ContextVar[Mapping[str, Any]]

    def __init__(self) -> None:
        object.__setattr__(self, "_values", ContextVar("Local", default=_EMPTY))

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return iter(self._values.get().items())

    def __call__(self, proxy: str) -> Any:
        """A proxy of the attribute named `proxy`."""
        return Proxy(getattr, (self, proxy), name=proxy)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._values.get()[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        # A new dict each time: the old one may be shared with the coroutine that created this one.
        self._values.set({**self._values.get(), name: value})

    def __delattr__(self, name: str) -> None:
        values = dict(self._values.get())
        if name not in values:
            raise AttributeError(name)
        del values[name]
        self._values.set(values)

    def __release_local__(self) -> None:
        self._values.set({})


def release_local(local: Local | LocalStack[Any]) -> None:
    """Forget what this thread or coroutine put there."""
    local.__release_local__()


class LocalManager:
    """Several locals that are released together."""

    def __init__(self, locals: Any = None, ident_func: Any = None) -> None:
        if locals is None:
            self.locals: list[Any] = []
        elif isinstance(locals, (Local, LocalStack)):
            self.locals = [locals]
        else:
            self.locals = list(locals)

    def get_ident(self) -> int:
        """The number of this thread."""
        return get_ident()

    def cleanup(self) -> None:
        """Release all; to be called when a request or task is over."""
        for local in self.locals:
            release_local(local)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} storages: {len(self.locals)}>"


class bgThread(threading.Thread):
    """A daemon thread that calls `body()` again and again until `stop()`.

    One that crashes ends the process.
    """

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or type(self).__name__, daemon=True, **kwargs)
        self.__is_shutdown = threading.Event()
        self.__is_stopped = threading.Event()

    def body(self) -> None:
        """One round of work; to be overridden."""
        raise NotImplementedError

    def on_crash(self, msg: str, *fmt: Any, **kwargs: Any) -> None:
        """Say why the process ends."""
        print(msg.format(*fmt), file=sys.stderr)  # noqa: T201 - logging may be what crashed
        traceback.print_exc(None, sys.stderr)

    def run(self) -> None:
        try:
            while not self.__is_shutdown.is_set():
                self._guarded_body()
        finally:
            self.__is_stopped.set()

    def _guarded_body(self) -> None:
        try:
            self.body()
        except Exception as exc:
            try:
                self.on_crash("{0!r} crashed: {1!r}", self.name, exc)
                self.__is_stopped.set()
            finally:
                sys.stderr.flush()
                # Nobody would notice that the work has ended: better no process than half of one.
                os._exit(1)

    def stop(self) -> None:
        """End after the current round, and wait for that."""
        self.__is_shutdown.set()
        self.__is_stopped.wait()
        if self.is_alive():
            self.join(THREAD_TIMEOUT_MAX)


@contextmanager
def default_socket_timeout(timeout: float | None) -> Iterator[None]:
    """New sockets get this timeout in seconds inside the block."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(timeout)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)
