"""``@app.task``: how a function becomes a task class with one instance."""

from __future__ import annotations

import functools
import inspect
import sys
import warnings
from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, overload

from celerylite import _state
from celerylite._call_keys import check_limit
from celerylite.app._pydantic import PydanticFunction
from celerylite.exceptions import DuplicateTaskNameWarning
from celerylite.local import PromiseProxy
from celerylite.utils.imports import qualname

if TYPE_CHECKING:
    from celerylite.app.base import Celery
    from celerylite.app.task import Task

__all__ = ("BoundDecorator", "Decorator", "TaskDecorator", "make_task", "warn_if_taken")

P = ParamSpec("P")
R = TypeVar("R")


class Decorator(Protocol):
    """What ``@app.task(...)`` gives: turns a function into a task with the same parameters."""

    @overload
    def __call__(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fun: Callable[P, R], /) -> Task[P, R]: ...


class LooseDecorator(Protocol):
    """What ``@app.task(pydantic=True)`` gives: a task whose arguments and result are not checked."""

    def __call__(self, fun: Callable[..., Any], /) -> Task[..., Any]: ...


class BoundDecorator(Protocol):
    """What ``@app.task(bind=True)`` gives: callers do not pass ``self``."""

    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, fun: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class TaskDecorator:
    """The decorator of an app, with types that follow the function it decorates."""

    finalized: bool
    _pending: deque[Any]
    _task_from_fun: Callable[..., Any]

    @overload
    def task(self, fun: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def task(self, fun: Callable[P, R], /) -> Task[P, R]: ...
    # What such a task takes and returns on the way is data, not the models of its annotations.
    @overload
    def task(self, *, pydantic: Literal[True], **opts: Any) -> LooseDecorator: ...
    @overload
    def task(self, *, bind: Literal[True], **opts: Any) -> BoundDecorator: ...
    @overload
    def task(self, *, bind: Literal[False] = False, **opts: Any) -> Decorator: ...
    def task(self, *args: Any, **opts: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(bind=True, max_retries=5)``.

        Returns a proxy that is evaluated at first use, so that configuration may come later. Options
        become attributes of the task; `name`, `base`, `bind`, `shared`, `filter`, `lazy`, `typing` and the
        ``pydantic*`` ones have a meaning of their own.
        """
        if not args:
            return functools.partial(self._declare, **opts)
        if len(args) > 1:
            raise TypeError(f"@task() takes exactly 1 argument ({len(args) + len(opts)} given)")
        if not callable(args[0]):
            raise TypeError("argument 1 to @task() must be a callable")
        return self._declare(args[0], **opts)

    def _declare(
        self,
        fun: Callable[..., Any],
        /,
        *,
        shared: bool = True,
        filter: Callable[[Any], Any] | None = None,
        lazy: bool = True,
        **opts: Any,
    ) -> Any:
        if opts.get("concurrency_limit") is not None:
            # Here, where it is written: the task itself is made at its first use.
            check_limit(opts.get("name") or fun.__name__, opts["concurrency_limit"])
        if shared:
            _share(fun, opts)
        if not lazy or self.finalized:
            task = self._task_from_fun(fun, **opts)
        else:
            task = PromiseProxy(self._task_from_fun, (fun,), opts, __doc__=fun.__doc__)
            self._pending.append(task)
        return filter(task) if filter else task


#: Options that may be functions of args and kwargs.
_OF_ARGUMENTS = ("unique", "concurrency_key")


def _share(fun: Callable[..., Any], opts: Mapping[str, Any]) -> None:
    # As Celery: apps finalized later know this task too.
    def construct(app: Celery) -> Any:
        return app._task_from_fun(fun, **opts)

    construct.__name__ = fun.__name__
    _state.connect_on_app_finalize(construct)


def make_task(
    app: Celery,
    fun: Callable[..., Any],
    *,
    name: str,
    base: Any,
    bind: bool,
    pydantic: bool = False,
    pydantic_strict: bool = False,
    pydantic_context: Mapping[str, Any] | None = None,
    pydantic_dump_kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """An instance of a new subclass of `base` whose ``run`` is `fun`; `options` become its attributes."""
    declared, dump = fun, None
    if pydantic is True:
        converting = PydanticFunction(
            app,
            fun,
            name,
            strict=pydantic_strict,
            context=pydantic_context,
            dump_kwargs=pydantic_dump_kwargs,
            bound=bind,
        )
        fun, dump = converting.wrapped(), staticmethod(converting.dump_arguments)
    run = fun if bind else staticmethod(fun)
    attributes = {
        "app": app,
        "name": name,
        "run": run,
        "_decorated": True,
        "_dump_pydantic_arguments": dump,
        "_decorated_fun": staticmethod(declared),
        "__doc__": fun.__doc__,
        "__module__": fun.__module__,
        "__annotations__": _annotations(fun),
        "__header__": app.type_checker(fun, bound=bind),
        "__wrapped__": run,
        **{option: _plain(option, value) for option, value in options.items()},
    }
    task = type(fun.__name__, (base,), attributes)()
    task.__qualname__ = getattr(fun, "__qualname__", fun.__name__)
    return task


def _plain(option: str, value: Any) -> Any:
    # A function of the call's arguments; as an attribute it would get the task as well.
    return staticmethod(value) if option in _OF_ARGUMENTS and inspect.isfunction(value) else value


def _annotations(fun: Callable[..., Any]) -> dict[str, Any]:
    try:
        return inspect.get_annotations(fun)
    except NameError:
        # Python 3.14 evaluates here what may exist for type checkers only.
        return {}


def warn_if_taken(app: Celery, existing: Any, new: Any, name: str) -> None:
    """Warn once per name when a second function claims the name of a task."""
    before = getattr(existing, "_decorated_fun", None)
    declared = getattr(new, "_decorated_fun", None) or (new if inspect.isroutine(new) else None)
    if declared is not None and (before is None or before is declared):
        return  # The same function again, as when a module is imported twice.
    if name in app._duplicate_task_names_warned:
        return
    app._duplicate_task_names_warned.add(name)
    replaced = declared is None
    consequence = (
        "The new callable replaced the existing one; calls under this name now reach the new callable."
        if replaced
        else "The new callable was not registered; calls under this name reach the callable registered first."
    )
    warnings.warn(
        DuplicateTaskNameWarning(
            f"Task name {name!r} is already registered to a different callable.\n\n"
            f"Existing: {qualname(before or type(existing))}\nNew:      {qualname(declared or type(new))}\n\n"
            f"{consequence}\n\n"
            "Every task must have a unique name. Pass an explicit name= to the task decorator, "
            "or rename one of the callables."
        ),
        stacklevel=_first_foreign_frame(),
    )


def _first_foreign_frame() -> int:
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("celerylite"):
        frame, level = frame.f_back, level + 1
    return level
