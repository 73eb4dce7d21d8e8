"""The application and the decorator of tasks that belong to none in particular."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar, overload

from celerylite import _state
from celerylite._state import app_or_default, disable_trace, enable_trace
from celerylite.app._decorator import BoundDecorator, Decorator, LooseDecorator
from celerylite.app.base import Celery
from celerylite.app.task import Task
from celerylite.app.utils import AppPickler
from celerylite.local import Proxy

__all__ = (
    "Celery",
    "AppPickler",
    "app_or_default",
    "default_app",
    "bugreport",
    "enable_trace",
    "disable_trace",
    "shared_task",
    "push_current_task",
    "pop_current_task",
)

P = ParamSpec("P")
R = TypeVar("R")

#: Proxy to the app set as default.
default_app: Any = Proxy(lambda: _state.default_app)

push_current_task = _state._task_stack.push
pop_current_task = _state._task_stack.pop


def bugreport(app: Celery | None = None) -> str:
    """Versions and settings, for a bug report."""
    return (app or _state.get_current_app()).bugreport()


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, pydantic: Literal[True], **options: Any) -> LooseDecorator: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> BoundDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = False, **options: Any) -> Decorator: ...
def shared_task(*args: Any, **options: Any) -> Any:
    """A task of every app, those made before and after: ``@shared_task`` or ``@shared_task(bind=True)``.

    Returns a proxy that finds the current app's task at each use. Takes the options of `Celery.task`.
    """
    if len(args) == 1 and callable(args[0]):
        return _share(args[0], options)
    if args:
        raise TypeError(f"@shared_task() takes one function, got {args!r}")
    return lambda fun: _share(fun, options)


def _share(fun: Any, options: dict[str, Any]) -> Any:
    if type(fun) is Proxy:
        raise TypeError(
            "@shared_task was applied more than once to the same function. "
            "Remove the extra @shared_task decorator."
        )

    def construct(app: Celery) -> Any:
        return app._task_from_fun(fun, **options)

    _state.connect_on_app_finalize(construct)
    for app in list(_state._get_active_apps()):
        if app.finalized:
            with app._finalize_mutex:
                construct(app)

    def find() -> Any:
        app = _state.get_current_app()
        return app.tasks[options.get("name") or app.gen_task_name(fun.__name__, fun.__module__)]

    return Proxy(find)
