"""What the runtimes of this process do, under Celery's global names.

Requests that runtimes hold are looked up when asked for; what code adds here itself is kept beside them.
"""

from __future__ import annotations

import os
import platform
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableSet
from typing import Any

from celerylite.exceptions import ImproperlyConfigured, WorkerShutdown, WorkerTerminate
from celerylite.utils.collections import LimitedSet

__all__ = (
    "SOFTWARE_INFO",
    "active_requests",
    "maybe_shutdown",
    "merge_revoked",
    "requests",
    "reserved_requests",
    "reset_state",
    "revoked",
    "revoked_stamps",
    "scheduled_requests",
    "should_stop",
    "should_terminate",
    "successful_requests",
    "task_accepted",
    "task_ready",
    "task_reserved",
    "task_scheduled",
    "total_count",
)

#: The version of the Celery that this follows: `celerylite.VERSION`, which is above this layer.
_FOLLOWS = "5.7.0"


def _number(name: str, default: float, kind: type[Any]) -> Any:
    value = os.environ.get(name)
    if value is None:
        return kind(default)
    try:
        return kind(value)
    except ValueError as exc:
        # As Celery: the sentence users match.
        raise ImproperlyConfigured(
            f"Invalid value for {name}: expected {kind.__name__}, got {value!r}"
        ) from exc


#: What workers say of themselves in events.
SOFTWARE_INFO = {"sw_ident": "py-celery", "sw_ver": _FOLLOWS, "sw_sys": platform.system()}

#: How many revoked ids are kept in memory; the database knows them all.
REVOKES_MAX: int = _number("CELERY_WORKER_REVOKES_MAX", 50000, int)
#: How many ids of successful calls are kept in memory.
SUCCESSFUL_MAX: int = _number("CELERY_WORKER_SUCCESSFUL_MAX", 1000, int)
#: Seconds.
REVOKE_EXPIRES: float = _number("CELERY_WORKER_REVOKE_EXPIRES", 10800, float)
#: Seconds.
SUCCESSFUL_EXPIRES: float = _number("CELERY_WORKER_SUCCESSFUL_EXPIRES", 10800, float)

Source = Callable[[], Iterable[Any]]


class _Requests(MutableSet[Any]):
    """The requests in one state: those that runtimes tell of, and those that were added by hand."""

    def __init__(self) -> None:
        self._added: weakref.WeakSet[Any] = weakref.WeakSet()
        self._sources: list[Source] = []

    def attach(self, source: Source) -> Callable[[], None]:
        """Ask `source` too from now on; returns the function that ends it."""
        self._sources.append(source)
        return lambda: self._sources.remove(source) if source in self._sources else None

    def __iter__(self) -> Iterator[Any]:
        yield from list(self._added)
        for source in list(self._sources):
            yield from source()

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, request: object) -> bool:
        return any(one == request for one in self)

    def add(self, request: Any) -> None:
        self._added.add(request)

    def discard(self, request: Any) -> None:
        self._added.discard(request)

    def clear(self) -> None:
        self._added.clear()

    def update(self, requests: Iterable[Any]) -> None:
        """Add several."""
        self._added.update(requests)


class _ById(dict[str, Any]):
    """Requests by id: those set here, and those that are active, reserved or scheduled."""

    def __missing__(self, task_id: str) -> Any:
        for group in (active_requests, reserved_requests, scheduled_requests):
            for request in group:
                if request.id == task_id:
                    return request
        raise KeyError(task_id)


#: Calls that runtimes of this process have claimed.
reserved_requests = _Requests()
#: Calls whose task is being run.
active_requests = _Requests()
#: Calls that wait for their time, as far as a process of this name looks after them.
scheduled_requests = _Requests()
#: Requests by id.
requests = _ById()
#: Ids of calls that succeeded here lately.
successful_requests = LimitedSet(maxlen=SUCCESSFUL_MAX, expires=SUCCESSFUL_EXPIRES)
#: How many calls were begun, by the name of the task.
total_count: Counter[str] = Counter()
#: How many calls were begun.
all_total_count = [0]
#: Ids that were revoked. The database keeps them for longer, and for all processes.
revoked = LimitedSet(maxlen=REVOKES_MAX, expires=REVOKE_EXPIRES)
#: Stamps that were revoked: a header and its values.
revoked_stamps: dict[str, Any] = {}

#: The exit code with which the worker is to stop when its tasks have ended, or None.
should_stop: Any = None
#: The exit code with which the worker is to stop at once, or None.
should_terminate: Any = None


def merge_revoked(task_ids: Iterable[str] | Mapping[str, Any] | None) -> None:
    """Take over ids that were revoked elsewhere; the times of a mapping are ignored, they are not ours."""
    if task_ids:
        revoked.update(list(task_ids))


def reset_state() -> None:
    """Forget everything that was counted or added here."""
    for collection in (
        requests,
        reserved_requests,
        active_requests,
        scheduled_requests,
        successful_requests,
        total_count,
        revoked,
        revoked_stamps,
    ):
        collection.clear()
    all_total_count[:] = [0]


def maybe_shutdown() -> None:
    """Raise WorkerTerminate or WorkerShutdown if that was asked for."""
    if should_terminate is not None and should_terminate is not False:
        raise WorkerTerminate(should_terminate)
    if should_stop is not None and should_stop is not False:
        raise WorkerShutdown(should_stop)


def task_reserved(request: Any) -> None:
    """Note that a call was claimed."""
    requests[request.id] = request
    reserved_requests.add(request)
    scheduled_requests.discard(request)


def task_scheduled(request: Any) -> None:
    """Note that a call waits for its time, unless it has gone on already."""
    if request in reserved_requests or request in active_requests:
        return  # It went on meanwhile.
    requests[request.id] = request
    scheduled_requests.add(request)


def task_accepted(request: Any) -> None:
    """Note that a call's task begins."""
    requests[request.id] = request
    active_requests.add(request)
    count_begun(request.name)


def count_begun(name: str) -> None:
    """Count a call that begins."""
    total_count[name] += 1
    all_total_count[0] += 1


def task_ready(request: Any, successful: bool = False) -> None:
    """Note that a call is over."""
    if successful:
        successful_requests.add(request.id)
    requests.pop(request.id, None)
    for group in (active_requests, reserved_requests, scheduled_requests):
        group.discard(request)
