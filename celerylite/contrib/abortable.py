"""Tasks that can be asked to stop, and that look from time to time whether they were.

The caller says `result.abort()`; the task asks `self.is_aborted()` at points where it can leave::

    @app.task(bind=True, base=AbortableTask)
    def count(self, n):
        for i in range(n):
            if self.is_aborted():
                return i
            work_on(i)
        return n

    result = count.delay(1_000_000)
    result.abort()

Nothing is interrupted: a task that never asks runs to its end.
"""

from __future__ import annotations

from typing import Any, ParamSpec, TypeVar

from celerylite.app.task import Task
from celerylite.result import AsyncResult

__all__ = ("ABORTED", "AbortableAsyncResult", "AbortableTask")

#: State of a task that was asked to stop.
ABORTED = "ABORTED"

P = ParamSpec("P")
R = TypeVar("R")


class AbortableAsyncResult(AsyncResult[R]):
    """The result of an abortable task."""

    def is_aborted(self) -> bool:
        """Whether the task was asked to stop. Reads the database."""
        return bool(self.state == ABORTED)

    def abort(self) -> Any:
        """Ask the task to stop; when it does, if at all, is up to the task."""
        return self.backend.store_result(self.id, result=None, state=ABORTED, traceback=None)


class AbortableTask(Task[P, R]):
    """A base class for tasks that call `is_aborted` now and then and return if it is true."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult[R]:
        """The result of `task_id`, which can be aborted."""
        return AbortableAsyncResult(task_id, backend=self.backend, **kwargs)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Whether this task (or the one of `task_id`) was asked to stop.

        Reads the database: often enough to leave in time, seldom enough to get work done.
        """
        result = self.AsyncResult(kwargs.get("task_id") or str(self.request.id))
        # A subclass may give results of another kind, which nobody can abort.
        return isinstance(result, AbortableAsyncResult) and result.is_aborted()
