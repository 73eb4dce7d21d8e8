"""The tasks that every app has: those of Celery, under Celery's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from celerylite._lazy import lazy_module
from celerylite._state import connect_on_app_finalize
from celerylite.canvas import chord as _chord
from celerylite.canvas import chunks as _chunks
from celerylite.canvas import group as _group
from celerylite.canvas import maybe_signature, signature
from celerylite.exceptions import ChordError, Retry
from celerylite.result import allow_join_result, result_from_tuple
from celerylite.utils.log import get_logger

if TYPE_CHECKING:
    from celerylite import _workflow
    from celerylite.app.base import Celery
    from celerylite.app.task import Task
else:
    # Brings the store along: what follows a call is asked when one has run.
    _workflow = lazy_module("celerylite._workflow")

__all__ = ()

logger = get_logger(__name__)

F = TypeVar("F", bound="Callable[[Celery], Any]")


def _for_every_app(add_task: F) -> F:
    connect_on_app_finalize(add_task)
    return add_task


@_for_every_app
def add_backend_cleanup_task(app: Celery) -> Any:
    """``celery.backend_cleanup``: deletes results that have expired."""

    @app.task(name="celery.backend_cleanup", shared=False, lazy=False)
    def backend_cleanup() -> None:
        app.backend.cleanup()

    return backend_cleanup


@_for_every_app
def add_accumulate_task(app: Celery) -> Any:
    """``celery.accumulate``: returns its arguments, or the one at `index`. It gathers replaced groups."""

    @app.task(bind=True, name="celery.accumulate", shared=False, lazy=False)
    def accumulate(self: Task[..., Any], *args: Any, **kwargs: Any) -> Any:
        index = kwargs.get("index")
        return args if index is None else args[index]

    return accumulate


@_for_every_app
def add_unlock_chord_task(app: Celery) -> Any:
    """``celery.chord_unlock``: waits for a header by asking. For backends that cannot count parts."""

    @app.task(  # type: ignore[arg-type] # mypy takes `self` for one of the **kwargs
        name="celery.chord_unlock",
        max_retries=None,
        shared=False,
        default_retry_delay=app.conf.result_chord_retry_interval,
        ignore_result=True,
        lazy=False,
        bind=True,
    )
    def unlock_chord(
        self: Task[..., Any],
        group_id: str,
        callback: Any,
        interval: float | None = None,
        max_retries: int | None = None,
        result: Any = None,
        Result: Any = app.AsyncResult,
        GroupResult: Any = app.GroupResult,
        result_from_tuple: Any = result_from_tuple,
        **kwargs: Any,
    ) -> None:
        header = GroupResult(group_id, [result_from_tuple(r, app=app) for r in result], app=app)
        body = maybe_signature(callback, app=app)
        _wait_or_retry(self, header, body, interval, max_retries)
        _send_body(app, header, body)

    return unlock_chord


def _wait_or_retry(
    task: Task[..., Any], header: Any, body: Any, interval: float | None, max_retries: int | None
) -> None:
    """Raise `Retry` until all of `header` is done; fail `body` when the retries are used up."""
    countdown = task.default_retry_delay if interval is None else interval
    asked: Exception | None = None
    try:
        try:
            ready = header.ready()
        except Exception as exc:
            asked = exc
            raise task.retry(exc=exc, countdown=countdown, max_retries=max_retries) from exc
        if not ready:
            raise task.retry(countdown=countdown, max_retries=max_retries)
    except Retry:
        raise
    except Exception as exc:
        logger.exception("Chord %r: chord_unlock could not be retried: %r", header.id, exc)
        cause = getattr(exc, "reason", None) or exc
        reason = f"chord_unlock could not be retried: {cause!r}"
        if asked is not None and asked is not cause:
            reason += f" (after deps.ready() raised {asked!r})"
        _fail_body(task.app, body, reason, cause)
        raise


def _send_body(app: Celery, header: Any, body: Any) -> None:
    """Send `body` with the values of `header`, or fail it if one of them failed."""
    join = header.join_native if header.supports_native_join else header.join
    try:
        with allow_join_result():
            values = join(timeout=app.conf.result_chord_join_timeout, propagate=True)
    except Exception as exc:
        culprit = next(header._failed_join_report(), None)
        reason = repr(exc) if culprit is None else f"Dependency {culprit.id} raised {exc!r}"
        logger.exception("Chord %r raised: %r", header.id, exc)
        _fail_body(app, body, reason, exc)
        return
    try:
        body.delay(values)
    except Exception as exc:
        logger.exception("Chord %r raised: %r", header.id, exc)
        _fail_body(app, body, f"Callback error: {exc!r}", exc)


def _fail_body(app: Celery, body: Any, reason: str, cause: Any) -> None:
    error = ChordError(reason)
    error.__cause__ = cause if isinstance(cause, Exception) else None
    # Stored at once: whoever sent this task by name does not count the parts, so nothing is settled.
    for row in _workflow.fail_chord_body(app, body, error).results:
        app.backend.save_row(row)


@_for_every_app
def add_map_task(app: Celery) -> Any:
    """``celery.map``: calls a task with each item."""

    @app.task(name="celery.map", shared=False, lazy=False)
    def xmap(task: Any, it: Iterable[Any]) -> list[Any]:
        call = signature(task, app=app).type
        return [call(item) for item in it]

    return xmap


@_for_every_app
def add_starmap_task(app: Celery) -> Any:
    """``celery.starmap``: calls a task with the arguments in each item."""

    @app.task(name="celery.starmap", shared=False, lazy=False)
    def xstarmap(task: Any, it: Iterable[Any]) -> list[Any]:
        call = signature(task, app=app).type
        return [call(*item) for item in it]

    return xstarmap


@_for_every_app
def add_chunk_task(app: Celery) -> Any:
    """``celery.chunks``: sends a group of starmaps."""

    @app.task(name="celery.chunks", shared=False, lazy=False)
    def chunks(task: Any, it: Iterable[Any], n: int) -> Any:
        return _chunks.apply_chunks(task, it, n)

    return chunks


@_for_every_app
def add_group_task(app: Celery) -> Any:
    """``celery.group``: sends the tasks of a group from within a worker."""

    @app.task(name="celery.group", bind=True, shared=False, lazy=False)
    def group(
        self: Task[..., Any],
        tasks: Iterable[Any],
        result: Any,
        group_id: str,
        partial_args: Any,
        add_to_parent: bool = True,
    ) -> Any:
        app = self.app
        sent = result_from_tuple(result, app)
        with app.producer_or_acquire() as producer:
            for task in tasks:
                member = maybe_signature(task, app=app).clone(partial_args)
                member.apply_async(group_id=group_id, producer=producer, add_to_parent=False)
        parent = app.current_worker_task
        if add_to_parent and parent:
            parent.add_trail(sent)
        return sent

    return group


@_for_every_app
def add_chain_task(app: Celery) -> Any:
    """``celery.chain``: a name only, chains are not run by a task."""

    @app.task(name="celery.chain", shared=False, lazy=False)
    def chain(*args: Any, **kwargs: Any) -> None:
        raise NotImplementedError("chain is not a real task")

    return chain


@_for_every_app
def add_chord_task(app: Celery) -> Any:
    """``celery.chord``: sends a chord from within a worker."""

    @app.task(  # type: ignore[arg-type] # mypy takes `self` for one of the **kwargs
        name="celery.chord", bind=True, ignore_result=False, shared=False, lazy=False
    )
    def chord(
        self: Task[..., Any],
        header: Any,
        body: Any,
        partial_args: Iterable[Any] = (),
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,
        **kwargs: Any,
    ) -> Any:
        app = self.app
        tasks = header.tasks if isinstance(header, _group) else header
        members = _group([maybe_signature(task, app=app) for task in tasks], app=app)
        callback = maybe_signature(body, app=app)
        return _chord(members, callback).run(
            members, callback, partial_args, app, interval, countdown, max_retries, **kwargs
        )

    return chord
