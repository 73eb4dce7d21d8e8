"""Results: what the caller of a task holds, to ask about it, wait for it, or stop it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, cast

from celerylite import _clock, states
from celerylite._lazy import lazy_module
from celerylite._ready import Barrier, Ready
from celerylite._result_members import Members
from celerylite._result_meta import KnownResult, ResultBase, result_from_tuple
from celerylite._state import _set_task_join_will_block, app_or_default, current_app, task_join_will_block
from celerylite.exceptions import ImproperlyConfigured, TaskRevokedError, TimeoutError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from celerylite import _awaiting
    from celerylite.app.base import Celery

    # With a default, so that plain `AsyncResult` is a complete type.
    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    # asyncio is for programs that have it already.
    _awaiting = lazy_module("celerylite._awaiting")

    R = TypeVar("R")

#: Seconds; what is waited for happens within milliseconds of its cause, unless a header goes on.
_GRACE_S = 0.1

__all__ = (
    "ResultBase",
    "AsyncResult",
    "ResultSet",
    "GroupResult",
    "EagerResult",
    "result_from_tuple",
    "assert_will_not_block",
    "allow_join_result",
    "denied_join_result",
)

E_WOULDBLOCK = """\
Never call result.get() within a task!
See https://docs.celeryq.dev/en/latest/userguide/tasks.html\
#avoid-launching-synchronous-subtasks
"""


def assert_will_not_block() -> None:
    """Raise `RuntimeError` if waiting here would keep a worker from running what is waited for."""
    if task_join_will_block():
        raise RuntimeError(E_WOULDBLOCK)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Inside the block, results may be waited for within a task."""
    with _join_will_block(False):
        yield


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Inside the block, waiting for a result raises `RuntimeError`."""
    with _join_will_block(True):
        yield


@contextmanager
def _join_will_block(blocks: bool) -> Iterator[None]:
    before = task_join_will_block()
    _set_task_join_will_block(blocks)
    try:
        yield
    finally:
        _set_task_join_will_block(before)


class AsyncResult(KnownResult, Generic[R]):
    """The result of one task, by its id. It exists for any id, known to the store or not.

    Every look at `state`, `result`... asks the backend until the task is done; then it is remembered.
    """

    app: Any = None
    #: What `get` raises when its time is up.
    TimeoutError: ClassVar[type[Exception]] = TimeoutError
    id: Any = None
    backend: Any = None

    def __init__(
        self,
        id: str,
        backend: Any = None,
        task_name: str | None = None,
        app: Celery | None = None,
        parent: Any = None,
    ) -> None:
        if id is None:
            raise ValueError(f"AsyncResult requires valid id, not {type(id)}")
        self.app = app_or_default(app or self.app)
        self.id = id
        self.backend = backend or self.app.backend
        self.parent = parent
        self._cache: Any = None
        self._ignored = False

    # -- waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callable[[str, Any], Any] | None = None,
        on_message: Callable[..., Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
        EXCEPTION_STATES: Collection[str] = states.EXCEPTION_STATES,
        PROPAGATE_STATES: Collection[str] = states.PROPAGATE_STATES,
    ) -> R:
        """Wait until the task is done and return its value; raise what it raised, if `propagate`.

        Raises `TimeoutError` after `timeout` seconds. `interval` (seconds) is how often a backend
        that cannot wake us looks. With `follow_parents` the failure of an earlier task of the
        workflow is raised too, since then this one will never run. None if the task's result is ignored.
        """
        if self.ignored:
            return cast("R", None)  # there will never be anything to wait for
        if disable_sync_subtasks:
            assert_will_not_block()
        check = on_interval
        if follow_parents and propagate and self.parent:
            self._raise_failure_of_parent(timeout)
            check = self._checking_parents(on_interval, timeout)
        if self._cache:
            if propagate:
                self.maybe_throw(callback=callback)
            known: Any = self.result
            return cast("R", known)
        self.backend.add_pending_result(self)
        try:
            waited: R = self.backend.wait_for_pending(
                self,
                timeout=timeout,
                interval=interval,
                on_interval=check,
                no_ack=no_ack,
                propagate=propagate,
                callback=callback,
                on_message=on_message,
            )
        except TimeoutError:
            raise
        except Exception:
            if check is not on_interval:
                # The failure that all others come from, whichever we were told of first.
                self._maybe_reraise_parent_error()
            raise
        return waited

    wait = get

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R:  # noqa: ASYNC109
        """`get` for coroutines: does not block the loop, and may be used inside a task."""
        return await _awaiting.in_thread(
            self.get, timeout=timeout, propagate=propagate, disable_sync_subtasks=False
        )

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def _checking_parents(
        self, on_interval: Callable[[], Any] | None, timeout: float | None
    ) -> Callable[[], None]:
        def check() -> None:
            self._raise_failure_of_parent(timeout)
            if on_interval is not None:
                on_interval()

        return check

    def _raise_failure_of_parent(self, timeout: float | None) -> None:
        try:
            self._maybe_reraise_parent_error()
        except Exception:
            self._let_failure_arrive(timeout)
            raise

    def _let_failure_arrive(self, timeout: float | None) -> None:
        """Wait a moment for the failure of a parent to become ours.

        The body of a chord, and what follows it, fails after the last task of its header has failed. It
        would be odd to be told of a failure and then to find this result pending.
        """
        grace = _GRACE_S if timeout is None else min(timeout, _GRACE_S)
        with suppress(TimeoutError):
            self.backend.wait_for_pending(self, timeout=grace, interval=grace, propagate=False)

    def _maybe_reraise_parent_error(self) -> None:
        for node in reversed(list(self._parents())):
            node.maybe_throw()

    def _parents(self) -> Iterator[Any]:
        node = self.parent
        while node:
            yield node
            node = node.parent

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        """Call ``callback(result)`` when the task is known to have succeeded, ``on_error(exc)`` if not.

        They are called when the outcome is fetched, in the thread that fetches it.
        """
        self.backend.add_pending_result(self, weak=weak)
        return self.on_ready.then(callback, on_error)

    def throw(self, *args: Any, **kwargs: Any) -> None:
        """Raise the exception given, after the error callbacks of `then`."""
        exc = args[0] if args else None
        tb = args[1] if len(args) > 1 else kwargs.get("tb")
        if "on_ready" in self.__dict__:
            self.on_ready.throw(exc)
        if not isinstance(exc, BaseException):
            exc = Exception(exc)
        raise exc.with_traceback(tb)

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], Any] | None = None) -> Any:
        """Raise the task's exception if it failed; else return its value, after ``callback(id, value)``."""
        meta = self._get_task_meta() if self._cache is None else self._cache
        value = meta["result"]
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            self.throw(value, self._to_remote_traceback(meta.get("traceback")))
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def _to_remote_traceback(self, tb: str | None) -> Any:
        if not tb or not self.app.conf.task_remote_tracebacks:
            return None
        tblib = _import_tblib()
        return None if tblib is None else tblib.Traceback.from_string(tb).as_traceback()

    def __copy__(self) -> Self:
        return self.__class__(self.id, self.backend, None, self.app, self.parent)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.backend, None, None, self.parent


class ResultSet(Members):
    """Several results as one. Values come in the order of `results`."""

    _app: Any = None
    results: Any = None

    def __init__(
        self, results: Any, app: Celery | None = None, ready_barrier: Any = None, **kwargs: Any
    ) -> None:
        self._app = app
        self.results = results
        if ready_barrier is not None:
            self._on_full = ready_barrier

    # -- waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """The values of all tasks, in order; `join_native` where the backend can, else `join`."""
        join = self.join_native if self.supports_native_join else self.join
        return join(
            timeout=timeout,
            propagate=propagate,
            interval=interval,
            callback=callback,
            no_ack=no_ack,
            on_message=on_message,
            disable_sync_subtasks=disable_sync_subtasks,
            on_interval=on_interval,
        )

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> Any:  # noqa: ASYNC109
        """`get` for coroutines: does not block the loop, and may be used inside a task."""
        return await _awaiting.in_thread(
            self.get, timeout=timeout, propagate=propagate, disable_sync_subtasks=False
        )

    def __await__(self) -> Generator[Any, None, Any]:
        return self.aget().__await__()

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Wait for one result after the other; `timeout` (seconds) is for all together.

        Returns their values; an empty list if each goes to ``callback(id, value)``.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if on_message is not None:
            raise ImproperlyConfigured("Backend does not support on_message callback")
        started = _clock.monotonic()
        values = []
        for result in self.results:
            remaining = None if timeout is None else max(timeout - (_clock.monotonic() - started), 0.0)
            value = result.get(
                timeout=remaining,
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback is None:
                values.append(value)
            else:
                callback(result.id, value)
        return values

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """``(id, meta)`` of each task as it gets done, as the backend finds them."""
        if "_on_full" in self.__dict__:
            self._on_full.finalize()
        found: Iterator[tuple[str, Any]] = self.backend.iter_native(
            self,
            timeout=timeout,
            interval=interval,
            no_ack=no_ack,
            on_message=on_message,
            on_interval=on_interval,
        )
        return found

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], Any] | None = None,
        no_ack: bool = True,
        on_message: Callable[..., Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> list[Any] | None:
        """`join` in one go: the backend looks for all results at once.

        Returns None if the values go to ``callback(id, value)``, in the order in which they come.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        values: dict[str, Any] = {}
        for task_id, meta in self.iter_native(timeout, interval, no_ack, on_message, on_interval):
            value = _value_of(meta, propagate, disable_sync_subtasks)
            if callback is None:
                values[task_id] = value
            else:
                callback(task_id, value)
        return None if callback is not None else [values.get(result.id) for result in self.results]

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        """Call ``callback(result set)`` when all tasks are known to have succeeded."""
        return self.on_ready.then(callback, on_error)

    @cached_property
    def on_ready(self) -> Ready:
        ready = Ready()
        self._on_full.then(lambda *_: ready(self), ready.throw)
        return ready

    @cached_property
    def _on_full(self) -> Any:
        # Made when first asked for: most sets never have a callback, and each result would get one.
        return Barrier(self.results)


class GroupResult(ResultSet):
    """The results of a group, with an id under which they can be saved and restored."""

    id: Any = None
    results: Any = None

    def __init__(self, id: Any = None, results: Any = None, parent: Any = None, **kwargs: Any) -> None:
        self.id = id
        self.parent = parent
        super().__init__(results, **kwargs)

    def save(self, backend: Any = None) -> Any:
        """Store which results belong to the group, for `restore`."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Any = None) -> None:
        """Undo `save`."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Celery | None = None) -> Any:
        """The group saved under `id`, or None."""
        if backend is None:
            bound: Any = cls.app
            if isinstance(bound, property):
                bound = None  # no app made this class
            backend = (app or bound or current_app).backend
        return backend.restore_group(id)

    def as_tuple(self) -> Any:
        """``((id, parent as tuple), [members as tuples])``: what `result_from_tuple` reads."""
        members = [result.as_tuple() for result in self.results]
        return (self.id, self.parent and self.parent.as_tuple()), members

    @property
    def children(self) -> Any:
        return self.results

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    __nonzero__ = __bool__

    def __eq__(self, other: object) -> bool:
        if isinstance(other, GroupResult):
            return bool(other.id == self.id and other.results == self.results and other.parent == self.parent)
        if isinstance(other, str):
            return bool(other == self.id)
        return NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(result.id for result in self.results)}]>"

    def __str__(self) -> str:
        return str(self.id)


class EagerResult(AsyncResult[R]):
    """The result of a task that was run at once: everything is known from the start."""

    def __init__(
        self,
        id: Any,
        ret_value: Any,
        state: str,
        traceback: str | None = None,
        name: str | None = None,
    ) -> None:
        self.id = id
        self._result = ret_value
        self._state = state
        self._traceback = traceback
        self._name = name

    def get(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> Any:
        """The value; raises the task's exception if `propagate`, else returns it.

        None in a state that is neither success nor failure.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.successful():
            return self.result
        if self.state not in states.PROPAGATE_STATES:
            return None  # As Celery: an ignored, rejected or retried task has no value.
        if propagate:
            raise self.result if isinstance(self.result, Exception) else Exception(self.result)
        return self.result

    wait = get  # type: ignore[assignment]

    async def aget(self, timeout: float | None = None, propagate: bool = True) -> R:  # noqa: ASYNC109
        value: R = self.get(propagate=propagate, disable_sync_subtasks=False)
        return value

    def then(self, callback: Any, on_error: Any = None, weak: bool = False) -> Any:
        return self.on_ready.then(callback, on_error)

    def ready(self) -> bool:
        return True

    def forget(self) -> None:
        """Nothing to do: nothing was stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """As Celery: too late to stop it, but from now on it counts as revoked."""
        self._state = states.REVOKED
        self._result = TaskRevokedError("revoked")
        self._traceback = None

    @property
    def _cache(self) -> dict[str, Any]:
        return {
            "task_id": self.id,
            "result": self._result,
            "status": self._state,
            "traceback": self._traceback,
            "name": self._name,
        }

    @_cache.setter
    def _cache(self, value: Any) -> None:
        raise AttributeError("expected no assignment, EagerResult knows its outcome; make a new one")

    def _get_task_meta(self) -> Any:
        return self._cache

    @property
    def result(self) -> Any:
        return self._result

    @property
    def state(self) -> Any:
        return self._state

    status = state

    @property
    def traceback(self) -> Any:
        return self._traceback

    @property
    def supports_native_join(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return self.__class__, self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self._result, self._state, self._traceback, self._name

    def __copy__(self) -> Self:
        return self.__class__(*self.__reduce_args__())


def _value_of(meta: Any, propagate: bool, disable_sync_subtasks: bool) -> Any:
    """The value in what `iter_native` gives: a list of results for a nested group, else a meta dict."""
    if isinstance(meta, list):
        return [child.get(propagate=propagate, disable_sync_subtasks=disable_sync_subtasks) for child in meta]
    if propagate and meta["status"] in states.PROPAGATE_STATES:
        raise meta["result"]
    return meta["result"]


def _import_tblib() -> Any:
    # Optional: remote tracebacks are rebuilt only where it is installed.
    try:
        import tblib  # type: ignore[import-not-found]
    except ImportError:
        return None
    return tblib
