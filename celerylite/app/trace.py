"""Celery's path for running one call by hand; tracing libraries wrap `build_tracer` to see every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from celerylite import states
from celerylite._request import Context
from celerylite.app.task import Task
from celerylite.utils.nodenames import gethostname
from celerylite.utils.objects import mro_lookup
from celerylite.utils.saferepr import saferepr
from celerylite.worker import _execute
from celerylite.worker._execution import Execution
from celerylite.worker._report import (
    LOG_FAILURE,
    LOG_IGNORED,
    LOG_INTERNAL_ERROR,
    LOG_RECEIVED,
    LOG_REJECTED,
    LOG_RETRY,
    LOG_SUCCESS,
)

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "LOG_FAILURE",
    "LOG_IGNORED",
    "LOG_INTERNAL_ERROR",
    "LOG_RECEIVED",
    "LOG_REJECTED",
    "LOG_RETRY",
    "LOG_SUCCESS",
    "TraceInfo",
    "build_tracer",
    "reset_worker_optimizations",
    "setup_worker_optimizations",
    "task_has_custom",
    "trace_ok_t",
    "trace_task",
)


class trace_ok_t(NamedTuple):
    """What a tracer returns: the value or ExceptionInfo, how it ended, seconds, and the value as text."""

    retval: Any
    info: Any
    runtime: float | None
    retstr: str | None


class TraceInfo:
    """How a call ended that did not succeed."""

    __slots__ = ("retval", "state")

    def __init__(self, state: str, retval: Any = None) -> None:
        self.state = state
        self.retval = retval


def task_has_custom(task: Any, attr: str) -> bool:
    """Whether the class of `task` overrides `attr` of the base class, or somebody patched it there."""
    found = mro_lookup(task.__class__, attr, stop={Task, object}, monkey_patched=["celerylite.app.task"])
    return found is not None


def setup_worker_optimizations(app: Celery, hostname: str | None = None) -> None:
    """Celery's shortcuts for a process that is a worker: here the app becomes the current and default one.

    Nothing else needs to be short-cut.
    """
    app.set_current()
    app.set_default()


def reset_worker_optimizations(app: Celery | None = None) -> None:
    """The counterpart of `setup_worker_optimizations`. Which app is current stays as it is, as in Celery."""


Tracer = Callable[..., trace_ok_t]


def build_tracer(
    name: str,
    task: Any,
    loader: Any = None,
    hostname: str | None = None,
    store_errors: bool = True,
    eager: bool = False,
    propagate: bool = False,
    app: Celery | None = None,
    **kwargs: Any,
) -> Tracer:
    """A function ``(uuid, args, kwargs, request)`` that runs `task` in this thread and stores its outcome.

    Runtimes run the same steps by themselves; they call this once per task so that libraries which wrap
    it (and patch the task meanwhile) see each task before its first call.
    """
    owner: Any = app or task.app
    site = _TracedSite(eager=eager, propagates=propagate, hostname=hostname or gethostname())

    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> trace_ok_t:
        context = Context(request or {}, args=args, kwargs=kwargs, called_directly=False, id=uuid)
        x = Execution(
            app=owner, site=site, id=uuid, name=name, request=context, task=task, args=args, kwargs=kwargs
        )
        _execute.run(x)
        if x.state == states.SUCCESS:
            return trace_ok_t(x.retval, None, x.runtime, saferepr(x.retval, task.resultrepr_maxsize))
        return trace_ok_t(x.einfo or x.retval, TraceInfo(x.state or "", x.retval), x.runtime, None)

    return trace


def trace_task(
    task: Any, uuid: str, args: Any, kwargs: Any, request: Any = None, **options: Any
) -> trace_ok_t:
    """Run `task` once, by its tracer."""
    if task.__trace__ is None:
        task.__trace__ = build_tracer(task.name, task, **options)
    traced: trace_ok_t = task.__trace__(uuid, args, kwargs, request)
    return traced


@dataclass(slots=True, kw_only=True)
class _TracedSite:
    """A call by hand: no message is behind it, its outcome is stored in the task's backend."""

    eager: bool
    propagates: bool
    hostname: str = field(default_factory=gethostname)
    events: None = None

    def is_revoked(self, x: Execution) -> bool:
        return False

    def settle(self, x: Execution) -> None:
        for row in x.results:
            x.task.backend.save_row(row)
        for message in x.outbox.messages:
            x.app._publish(message)

    def settle_later(self, x: Execution) -> None:
        self.settle(x)
