"""Where each task runs: on the loop, in a thread or in a child process."""

from __future__ import annotations

import inspect
import os
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils.functional import maybe_list
from celerylite.utils.log import get_logger
from celerylite.worker._slots import Kind

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "Kinds",
    "available_cpus",
    "chosen_pool",
    "default_concurrency",
    "default_threads",
    "is_prefork",
    "queues_of",
    "start_method",
)

logger = get_logger("celery.worker")

_PREFORK = frozenset({"prefork", "processes"})
_START_METHODS = ("fork", "forkserver", "spawn")
_POOLS_OF_TASKS = frozenset({"prefork", "processes", "threads", "solo"})


def is_prefork(pool: Any) -> bool:
    """Whether a name of a pool, as Celery knows it, means child processes."""
    return pool in _PREFORK


def chosen_pool(app: Celery) -> str | None:
    """The pool that the settings ask for. Celery's default, prefork, is not asked for by who says nothing."""
    return app.conf.worker_pool if app.conf.value_set_for("worker_pool") else None


def available_cpus() -> int:
    """The number of CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Plain functions that run at once in threads when ``worker_concurrency`` does not say."""
    return min(32, (os.cpu_count() or 1) + 4)


def default_concurrency(pool: str) -> int:
    """Plain functions that run at once when ``worker_concurrency`` does not say."""
    return available_cpus() if is_prefork(pool) else default_threads()


def start_method(app: Celery) -> str:
    """How the app's child processes are made. Raises ImproperlyConfigured."""
    if not app.conf.value_set_for("worker_pool_start_method"):
        # Celery's default forks this process, which is full of threads here: only if there is no other way.
        return "forkserver"
    method = app.conf.worker_pool_start_method
    if method not in _START_METHODS:
        raise ImproperlyConfigured(
            f"worker_pool_start_method: expected one of {', '.join(_START_METHODS)}, got {method!r}"
        )
    return str(method)


class Kinds:
    """Knows where the tasks of an app run, `pool` being for plain functions that say nothing themselves."""

    def __init__(self, app: Celery, pool: str | None) -> None:
        self._app = app
        self._kinds: dict[str, Kind] = {}
        self._told = False
        start_method(app)  # A wrong one is seen when the runtime starts, not at the first task.
        #: Plain functions run in child processes unless they say otherwise.
        self.prefork = is_prefork(pool) and self._can_fork()

    def of(self, name: str) -> Kind:
        """Where the task of that name runs; one that is not known fails in a thread."""
        kind = self._kinds.get(name)
        if kind is None:
            task = self._app._tasks.get(name)
            if task is None:
                return Kind.THREAD
            kind = self._kinds[name] = self._of_task(task)
        return kind

    def _of_task(self, task: Any) -> Kind:
        pool = task.pool
        if pool is not None and pool not in _POOLS_OF_TASKS:
            expected = ", ".join(sorted(_POOLS_OF_TASKS))
            logger.error("task %s: expected one of %s as pool, got %r: threads", task.name, expected, pool)
        if is_prefork(pool):
            return Kind.PROCESS if self._can_fork() else Kind.THREAD
        if _is_coroutine_task(task):
            return Kind.LOOP
        return Kind.PROCESS if self.prefork and pool is None else Kind.THREAD

    def _can_fork(self) -> bool:
        reason = None
        if not hasattr(os, "fork"):
            reason = "this system cannot fork"
        elif self._app._database.in_memory:
            reason = "the database is in memory, where no other process can read it"
        if reason is not None and not self._told:
            self._told = True
            logger.warning("pool 'prefork': %s; tasks run in threads", reason)
        return reason is None


def _is_coroutine_task(task: Any) -> bool:
    return inspect.iscoroutinefunction(task.run) or inspect.iscoroutinefunction(type(task).__call__)


def queues_of(app: Celery, queues: Any) -> Collection[str] | None:
    """The names of the queues to take from: those given, else those selected in the app, else all."""
    if queues:
        names = queues.split(",") if isinstance(queues, str) else maybe_list(queues) or []
        return frozenset(names)
    if app.amqp.queues._consume_from is not None:
        return frozenset(app.amqp.queues.consume_from)
    return None
