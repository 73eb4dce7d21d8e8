"""What is known of one task's result, as far as it can be told without waiting."""

from __future__ import annotations

import datetime
from collections import deque
from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celerylite import states
from celerylite._ready import Ready
from celerylite._state import app_or_default
from celerylite.exceptions import IncompleteStream
from celerylite.utils.graph import DependencyGraph, GraphFormatter

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("ResultBase", "KnownResult", "result_from_tuple")


class ResultBase:
    """What all results share: they may have a parent."""

    __module__ = "celerylite.result"

    #: Result of the task before this one, if this is part of a workflow.
    parent: Any = None


class KnownResult(ResultBase):
    """The part of `AsyncResult` that asks, shows and acts, but never waits."""

    app: Any = None
    id: Any = None
    backend: Any = None

    _cache: Any = None
    _ignored = False

    # -- asking

    def exists(self) -> bool:
        """Whether the backend has stored anything for this id."""
        return bool(self.backend.task_result_exists(self.id))

    def ready(self) -> bool:
        """Whether the task is done, whichever way."""
        return self.state in self.backend.READY_STATES

    def successful(self) -> bool:
        return bool(self.state == states.SUCCESS)

    def failed(self) -> bool:
        return bool(self.state == states.FAILURE)

    @property
    def ignored(self) -> bool:
        """Whether nobody stores the result of this task."""
        return bool(getattr(self, "_ignored", False))

    @ignored.setter
    def ignored(self, value: bool) -> None:
        self._ignored = value

    @property
    def result(self) -> Any:
        """The value if the task succeeded, the exception if it failed, else what its state says."""
        return self._get_task_meta()["result"]

    info = result

    @property
    def state(self) -> Any:
        """PENDING, STARTED, RETRY, FAILURE, SUCCESS, or the task's own; PENDING if nothing is known."""
        return self._get_task_meta()["status"]

    status = state

    @property
    def traceback(self) -> Any:
        """The traceback of a failed task as text."""
        return self._get_task_meta().get("traceback")

    @property
    def children(self) -> Any:
        """Results of the tasks that this one sent."""
        return self._get_task_meta().get("children")

    @property
    def date_done(self) -> datetime.datetime | None:
        """When the task was done, in UTC."""
        done: Any = self._get_task_meta().get("date_done")
        return datetime.datetime.fromisoformat(done) if done and isinstance(done, str) else done

    @property
    def task_id(self) -> Any:
        return self.id

    @task_id.setter
    def task_id(self, id: str) -> None:
        self.id = id

    # These need ``result_extended``.

    @property
    def name(self) -> Any:
        return self._get_task_meta().get("name")

    @property
    def args(self) -> Any:
        return self._get_task_meta().get("args")

    @property
    def kwargs(self) -> Any:
        return self._get_task_meta().get("kwargs")

    @property
    def worker(self) -> Any:
        return self._get_task_meta().get("worker")

    @property
    def retries(self) -> Any:
        return self._get_task_meta().get("retries")

    @property
    def queue(self) -> Any:
        return self._get_task_meta().get("queue")

    @property
    def supports_native_join(self) -> Any:
        return self.backend.supports_native_join

    def _get_task_meta(self) -> Any:
        if self._cache is None:
            return self._maybe_set_cache(self.backend.get_task_meta(self.id))
        return self._cache

    def _maybe_set_cache(self, meta: Any) -> Any:
        """Remember `meta` if it is final. Called by backends too, when they learn the outcome."""
        if not meta or meta["status"] not in states.READY_STATES:
            return meta
        cached = self._set_cache(self.backend.meta_from_decoded(meta))
        self.backend.remove_pending_result(self)
        if "on_ready" in self.__dict__:
            self.on_ready(self)
        return cached

    @cached_property
    def on_ready(self) -> Ready:
        # Made when first asked for: most results never have a callback.
        ready = Ready()
        if self._cache is not None:
            ready(self)
        return ready

    def _set_cache(self, d: Any) -> Any:
        children = d.get("children")
        if children:
            d["children"] = [result_from_tuple(child, self.app) for child in children]
        self._cache = d
        return d

    def _iter_meta(self, **kwargs: Any) -> Iterator[Any]:
        return iter([self._get_task_meta()])

    # -- the graph of tasks that tasks sent

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """This result and those of the tasks it sent, each with its sender, breadth first.

        Raises `IncompleteStream` at one that is not ready, unless `intermediate`.
        """
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        while waiting:
            parent, node = waiting.popleft()
            yield parent, node
            if node.ready():
                waiting.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Each result of `iterdeps` with its value; further options are those of `get`.

        Of a task that sent a group of ten, each of which sent the square of its number on::

            >>> [value for _, value in result.collect() if isinstance(value, int)]
            [0, 1, 4, 9, 16, 25, 36, 49, 64, 81]
        """
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """The value of the last result of `iterdeps`."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    @cached_property
    def graph(self) -> DependencyGraph:
        return self.build_graph()

    def build_graph(
        self, intermediate: bool = False, formatter: GraphFormatter | None = None
    ) -> DependencyGraph:
        """The graph of results in `iterdeps`."""
        graph = DependencyGraph(formatter=formatter or GraphFormatter(root=self.id, shape="oval"))
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent:
                graph.add_edge(parent, node)
        return graph

    def as_tuple(self) -> Any:
        """``((id, parent as tuple), None)``: what `result_from_tuple` reads."""
        parent = self.parent
        return (self.id, parent and parent.as_tuple()), None

    def as_list(self) -> list[Any]:
        """The ids of this result and its parents, this one first."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    # -- acting

    def forget(self) -> None:
        """Delete what the backend stored for this task and its parents."""
        self._cache = None
        if self.parent:
            self.parent.forget()
        self.backend.remove_pending_result(self)
        self.backend.forget(self.id)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to run the task; with `terminate` also to stop it if it runs."""
        self.app.control.revoke(
            self.id, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Tell all workers not to run tasks that have one of these stamps."""
        self.app.control.revoke_by_stamped_headers(
            headers, connection=connection, terminate=terminate, signal=signal, reply=wait, timeout=timeout
        )

    # -- as an object

    def __str__(self) -> str:
        return str(self.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, KnownResult):
            return bool(other.id == self.id)
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    def __del__(self) -> None:
        if self.backend is not None:
            self.backend.remove_pending_result(self)


def result_from_tuple(r: Any, app: Celery | None = None) -> Any:
    """The result or group that ``result.as_tuple()`` describes; results are returned as they are."""
    if isinstance(r, ResultBase):
        return r
    known: Any = app_or_default(app)
    head, members = r
    result_id, parent = head if isinstance(head, (list, tuple)) else (head, None)
    if parent:
        parent = result_from_tuple(parent, known)
    if members is None:
        return known.AsyncResult(result_id, parent=parent)
    return known.GroupResult(
        result_id, [result_from_tuple(member, known) for member in members], parent=parent
    )
