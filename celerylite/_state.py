"""What is current: the app and the task of this thread or coroutine, and the apps of the process."""

from __future__ import annotations

import importlib
import os
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celerylite.local import Proxy
from celerylite.utils.threads import LocalStack

if TYPE_CHECKING:
    from celerylite.app.base import Celery
    from celerylite.app.task import Task

__all__ = (
    "set_default_app",
    "get_current_app",
    "get_current_task",
    "get_current_worker_task",
    "current_app",
    "current_task",
    "connect_on_app_finalize",
    "task_join_will_block",
    "app_or_default",
    "enable_trace",
    "disable_trace",
)

#: The app that threads without one of their own use.
default_app: Celery | None = None

#: Every app that is alive and not closed.
_apps: weakref.WeakSet[Celery] = weakref.WeakSet()

#: Called with each app when it is finalized: how shared tasks reach apps made before and after them.
_on_app_finalizers: set[Callable[[Celery], Any]] = set()

#: Tasks being executed in this context, innermost last.
_task_stack: LocalStack[Task[..., Any]] = LocalStack()

_task_join_will_block = False

#: The app made current last, in whichever thread. A thread that never chose an app gets this one
#: rather than an empty app that nobody configured (docs/differences.md: "current app in threads").
_last_current: weakref.ref[Celery] | None = None


class _TLS(threading.local):
    #: The app of this thread.
    current_app: Celery | None = None


_tls = _TLS()


def _set_task_join_will_block(blocks: bool) -> None:
    global _task_join_will_block
    _task_join_will_block = blocks


def task_join_will_block() -> bool:
    """Whether waiting for a result here would keep a worker's only slot busy."""
    return _task_join_will_block


def connect_on_app_finalize(callback: Callable[[Celery], Any]) -> Callable[[Celery], Any]:
    """Call `callback` with every app that is finalized from now on."""
    _on_app_finalizers.add(callback)
    return callback


def _announce_app_finalized(app: Celery) -> None:
    for callback in set(_on_app_finalizers):
        callback(app)


def set_default_app(app: Celery | None) -> None:
    """Make `app` the one that threads without an app of their own use."""
    global default_app
    default_app = app


def _set_current_app(app: Celery | None) -> None:
    global _last_current
    _tls.current_app = app
    if app is not None and isinstance(app, _app_class()):
        _last_current = weakref.ref(app)


def _app_class() -> type[Celery]:
    module = importlib.import_module("celerylite.app.base")
    cls: type[Celery] = module.Celery
    return cls


def _make_default_app() -> Celery:
    # Here, not at the top: the app is the top of the house and made only when nobody made one.
    app = _app_class()(
        "default",
        fixups=[],
        set_as_current=False,
        loader=os.environ.get("CELERY_LOADER") or "default",
    )
    set_default_app(app)
    return app


def _get_current_app() -> Celery:
    chosen = _tls.current_app or default_app
    if chosen is None and _last_current is not None:
        chosen = _last_current()
    return chosen if chosen is not None else _make_default_app()


def get_current_app() -> Celery:
    """The app of this thread, else the default app, else the one that was made current last."""
    return _get_current_app_hook()


_get_current_app_hook: Callable[[], Celery] = _get_current_app


def get_current_task() -> Task[..., Any] | None:
    """The task being executed in this context, or None."""
    return _task_stack.top


def get_current_worker_task() -> Task[..., Any] | None:
    """The task that a worker (or eager mode) is executing, past tasks called as plain functions."""
    stack = _task_stack.stack
    if not stack:
        return None  # Asked by every call that is sent.
    return next((task for task in reversed(stack) if not task.request.called_directly), None)


#: Proxy to the app of this thread.
current_app: Any = Proxy(get_current_app)

#: Proxy to the task being executed.
current_task: Any = Proxy(get_current_task)


def _register_app(app: Celery) -> None:
    _apps.add(app)


def _deregister_app(app: Celery) -> None:
    _apps.discard(app)


def _get_active_apps() -> weakref.WeakSet[Celery]:
    return _apps


def _app_or_default(app: Celery | None = None) -> Celery:
    return get_current_app() if app is None else app


def _app_or_default_trace(app: Celery | None = None) -> Celery:
    if app is not None:
        return app
    if _tls.current_app is not None:
        return _tls.current_app
    raise RuntimeError(
        "expected an app to be passed, got None: the current app is not to be used while traced"
    )


app_or_default: Callable[..., Celery] = _app_or_default


def enable_trace() -> None:
    """Raise wherever code falls back to the default app unasked (used by tests)."""
    global app_or_default
    app_or_default = _app_or_default_trace


def disable_trace() -> None:
    """Undo `enable_trace`."""
    global app_or_default
    app_or_default = _app_or_default
