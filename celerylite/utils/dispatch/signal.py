"""A signal and the functions that listen to it."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from kombu.utils.functional import retry_over_time

from celerylite.exceptions import CDeprecationWarning
from celerylite.local import PromiseProxy, Proxy
from celerylite.utils.functional import fun_accepts_kwargs
from celerylite.utils.log import get_logger
from celerylite.utils.time import humanize_seconds

__all__ = ("Signal",)

logger = get_logger(__name__)

Receiver = Callable[..., Any]
F = TypeVar("F", bound=Receiver)
#: Who listens (function, method or `dispatch_uid`), and to whom.
Key = tuple[Any, Any]

RECEIVER_RETRY_ERROR = "Could not process signal receiver %(receiver)s. Retrying %(when)s..."


class Signal:
    """Something that happens, named, with the arguments it promises to give.

    Thread-safe. A signal that nobody listens to costs one look at an empty list.
    """

    #: `(key, receiver or weak reference to it)`, in order of connection.
    receivers: list[tuple[Key, Any]]

    def __init__(
        self,
        providing_args: Iterable[str] | None = None,
        use_caching: bool = False,
        name: str | None = None,
    ) -> None:
        self.receivers = []
        self.providing_args = set(providing_args or ())
        self.use_caching = use_caching
        self.name = name
        self.lock = threading.Lock()
        self._dead_receivers = False

    @overload
    def connect(
        self,
        receiver: F,
        /,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> F: ...

    @overload
    def connect(
        self, *, sender: Any = None, weak: bool = True, dispatch_uid: Any = None, retry: bool = False
    ) -> Callable[[F], F]: ...

    @overload
    def connect(self, *args: Any, **kwargs: Any) -> Any: ...

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Call the receiver whenever the signal is sent; directly or as a decorator.

        `sender` limits it to one sender, None means every one. The receiver is held weakly, so a function
        made in passing must be connected with `weak=False`. The same receiver, or the same `dispatch_uid`, is
        connected once. With `retry` a receiver is held strongly, and called again until it does not raise.
        Raises ValueError for a receiver that does not take `**kwargs`.
        """
        if args and callable(args[0]):
            receiver, *rest = args
            return self._connect(receiver, *rest, **kwargs)
        return lambda receiver: self._connect(receiver, *args, **kwargs)

    def _connect(
        self,
        receiver: Receiver,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> Receiver:
        if retry:
            weak = False
            # Without a name of its own it is found again by the function that the caller knows.
            dispatch_uid = dispatch_uid or _identity(receiver)
            receiver = _retrying(receiver)
            receiver._dispatch_uid = dispatch_uid  # type: ignore[attr-defined]
        self._connect_signal(receiver, sender, weak, dispatch_uid)
        return receiver

    def _connect_signal(self, receiver: Receiver, sender: Any, weak: bool, dispatch_uid: Any) -> Receiver:
        assert callable(receiver), "Signal receivers must be callable"
        if not fun_accepts_kwargs(receiver):
            raise ValueError("Signal receiver must accept keyword arguments.")
        if isinstance(sender, PromiseProxy):
            # A task that is not made yet: connect to the real one as soon as there is one.
            sender.__then__(self._connect_proxy, receiver, sender, weak, dispatch_uid)
            return receiver
        self._add(_key(receiver, sender, dispatch_uid), self._weakly(receiver) if weak else receiver)
        return receiver

    def _connect_proxy(self, receiver: Receiver, sender: Any, weak: bool, dispatch_uid: Any) -> None:
        self._connect_signal(receiver, sender._get_current_object(), weak, dispatch_uid)

    def _weakly(self, receiver: Receiver) -> weakref.ref[Any]:
        if hasattr(receiver, "__func__") and hasattr(receiver, "__self__"):
            return weakref.WeakMethod(receiver, self._remove_receiver)
        return weakref.ref(receiver, self._remove_receiver)

    def _add(self, key: Key, entry: Any) -> None:
        with self.lock:
            self._clear_dead_receivers()
            if all(known != key for known, _ in self.receivers):
                self.receivers.append((key, entry))

    def disconnect(
        self,
        receiver: Receiver | None = None,
        sender: Any = None,
        weak: bool | None = None,
        dispatch_uid: Any = None,
    ) -> bool:
        """Stop calling the receiver; was it connected? Give what it was connected with."""
        if weak is not None:
            warnings.warn("Passing `weak` to disconnect has no effect.", CDeprecationWarning, stacklevel=2)
        key = _key(receiver, sender, dispatch_uid)
        with self.lock:
            self._clear_dead_receivers()
            for index, (known, _) in enumerate(self.receivers):
                if known == key:
                    del self.receivers[index]
                    return True
        return False

    def has_listeners(self, sender: Any = None) -> bool:
        """Would anybody be called if `sender` sent this?"""
        return bool(self.receivers) and bool(self._live_receivers(sender))

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call everybody who listens to `sender`, in order of connection: `[(receiver, response), ...]`.

        What a receiver raises is logged and is its response; it stops nobody.
        """
        if not self.receivers:
            return []
        return [
            (receiver, self._deliver(receiver, sender, named)) for receiver in self._live_receivers(sender)
        ]

    #: The name of `send` in Django.
    send_robust = send

    def _deliver(self, receiver: Receiver, sender: Any, named: dict[str, Any]) -> Any:
        try:
            return receiver(signal=self, sender=sender, **named)
        except Exception as exc:
            logger.exception("Signal handler %r raised: %r", receiver, exc)
            return exc

    def _live_receivers(self, sender: Any) -> list[Receiver]:
        with self.lock:
            self._clear_dead_receivers()
            entries = list(self.receivers)
        wanted = (_NOBODY, _identity(sender))
        return [
            receiver
            for (_, connected_to), entry in entries
            if connected_to in wanted and (receiver := _dereference(entry)) is not None
        ]

    def _clear_dead_receivers(self) -> None:
        # The caller holds the lock.
        if self._dead_receivers:
            self._dead_receivers = False
            self.receivers[:] = [item for item in self.receivers if _dereference(item[1]) is not None]

    def _remove_receiver(self, receiver: Any = None) -> None:
        # Runs inside the garbage collector, perhaps in a thread that holds the lock: only leave a note.
        self._dead_receivers = True

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={self.providing_args!r}>"


def _identity(target: Any) -> Any:
    """What says that two receivers or senders are the same one; text is compared by value."""
    if isinstance(target, Proxy):
        target = target._get_current_object()
    if isinstance(target, (bytes, str)):
        return target
    function = getattr(target, "__func__", None)
    if function is not None:
        # A bound method is a new object at each look-up; what it is bound to and its function stay.
        return id(getattr(target, "__self__", None)), id(function)
    return id(target)


_NOBODY = _identity(None)


def _key(receiver: Any, sender: Any, dispatch_uid: Any) -> Key:
    who = dispatch_uid or getattr(receiver, "_dispatch_uid", None)
    return (who if who else _identity(receiver)), _identity(sender)


def _dereference(entry: Any) -> Any:
    return entry() if isinstance(entry, weakref.ReferenceType) else entry


def _retrying(receiver: Receiver) -> Receiver:
    def on_error(exc: Exception, intervals: Any, retries: int) -> float:
        interval: float = next(intervals)
        when = humanize_seconds(interval, "in", " ")
        logger.error(RECEIVER_RETRY_ERROR, {"receiver": receiver, "when": when})
        return interval

    def call_until_it_works(*args: Any, **kwargs: Any) -> Any:
        return retry_over_time(receiver, Exception, args, kwargs, on_error)

    return call_until_it_works
