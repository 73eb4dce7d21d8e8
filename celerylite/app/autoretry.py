"""Retrying by itself: tasks declared with ``autoretry_for``, and how long they wait in between."""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celerylite.exceptions import Ignore, ImproperlyConfigured, Retry
from celerylite.utils.time import get_exponential_backoff_interval

if TYPE_CHECKING:
    from celerylite._request import Context
    from celerylite.app.task import Task

__all__ = ("add_autoretry_behaviour", "backoff_delay", "merged_arguments")

BackoffKind = str | Callable[[int], float]


def add_autoretry_behaviour(task: Task[..., Any], **options: Any) -> None:
    """Make `task` call `retry` by itself for the exceptions it names in ``autoretry_for``.

    Options not given here are read from the task. Ours beyond Celery: ``retry_backoff_kind``, one of
    ``'exponential'`` (Celery's), ``'linear'``, ``'constant'``, or a function from the number of past
    retries to seconds. Under Celery it is an attribute without effect.
    """

    def option(name: str, default: Any) -> Any:
        return options.get(name, getattr(task, name, default))

    retry_for = tuple(option("autoretry_for", ()))
    if not retry_for or hasattr(task, "_orig_run"):
        return  # Nothing asked for, or done before.
    never_for = (Ignore, Retry, *option("dont_autoretry_for", ()))
    retry_kwargs: dict[str, Any] = option("retry_kwargs", {})
    factor = float(option("retry_backoff", False))
    maximum = int(option("retry_backoff_max", 600))
    jitter = bool(option("retry_jitter", True))
    kind: BackoffKind = option("retry_backoff_kind", "exponential")
    _check_kind(task.name, kind)

    def again(exc: BaseException) -> BaseException:
        choices = dict(retry_kwargs)
        if factor or kind != "exponential":
            choices["countdown"] = backoff_delay(kind, factor, task.request.retries, maximum, jitter)
        if hasattr(task, "override_max_retries"):
            choices["max_retries"] = task.override_max_retries
        signal = task.retry(exc=exc, **choices)
        if hasattr(task, "override_max_retries"):
            del task.override_max_retries
        return signal

    original: Callable[..., Any] = task.run
    setattr(task, "_orig_run", original)  # noqa: B010  (Celery's name, looked up by integrations)
    wrap = _wrap_coroutine if inspect.iscoroutinefunction(original) else _wrap_function
    setattr(task, "run", wrap(task, original, retry_for, never_for, again))  # noqa: B010


def _wrap_function(
    task: Any,
    original: Callable[..., Any],
    retry_for: tuple[type[BaseException], ...],
    never_for: tuple[type[BaseException], ...],
    again: Callable[[BaseException], BaseException],
) -> Callable[..., Any]:
    @functools.wraps(original)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return task._orig_run(*args, **kwargs)
        except never_for:
            raise
        except retry_for as exc:
            raise again(exc)  # noqa: B904  (the Retry carries its cause itself)

    return run


def _wrap_coroutine(
    task: Any,
    original: Callable[..., Any],
    retry_for: tuple[type[BaseException], ...],
    never_for: tuple[type[BaseException], ...],
    again: Callable[[BaseException], BaseException],
) -> Callable[..., Any]:
    @functools.wraps(original)
    async def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return await task._orig_run(*args, **kwargs)
        except never_for:
            raise
        except retry_for as exc:
            raise again(exc)  # noqa: B904  (the Retry carries its cause itself)

    return run


def _check_kind(name: str | None, kind: BackoffKind) -> None:
    if callable(kind) or kind in ("exponential", "linear", "constant"):
        return
    raise ImproperlyConfigured(
        f"task {name}: retry_backoff_kind: expected 'exponential', 'linear', 'constant' "
        f"or a function from retries to seconds, got {kind!r}"
    )


def backoff_delay(kind: BackoffKind, factor: float, retries: int, maximum: int, jitter: bool) -> float:
    """Seconds to wait before the next try, after `retries` retries; at most `maximum`.

    With `jitter` the delay is drawn evenly from 0 up to it, as Celery does ("full jitter").
    """
    base = int(max(1.0, factor))
    if kind == "exponential":
        return get_exponential_backoff_interval(
            factor=base, retries=retries, maximum=maximum, full_jitter=jitter
        )
    if callable(kind):
        return max(0.0, min(float(kind(retries)), maximum))
    delay = min(base * (retries + 1) if kind == "linear" else base, maximum)
    return random.randrange(delay + 1) if jitter else delay


def merged_arguments(run: Callable[..., Any], request: Context, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The arguments of the next try when only one of `args` and `kwargs` was given anew.

    What the call had and the new ones do not replace is kept.
    """
    try:
        parameters = inspect.signature(run).parameters
    except (TypeError, ValueError):
        return args, kwargs  # Not a function we can look into: the usual check of arguments will tell.
    if args is not None and kwargs is None and request.kwargs:
        return args, _without_replaced(parameters, args, request.kwargs)
    if kwargs is not None and args is None and request.args:
        return _with_replaced(run, parameters, request.args, kwargs)
    return args, kwargs


def _without_replaced(
    parameters: Mapping[str, inspect.Parameter], args: Any, old: Mapping[str, Any]
) -> dict[str, Any]:
    positional = [p for p in parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    taken = {p.name for p in positional[: len(args)] if p.kind is p.POSITIONAL_OR_KEYWORD}
    return {name: value for name, value in old.items() if name not in taken}


def _with_replaced(
    run: Callable[..., Any], parameters: Mapping[str, inspect.Parameter], old: Any, kwargs: Mapping[str, Any]
) -> tuple[Any, Any]:
    try:
        bound = inspect.signature(run).bind_partial(*old)
    except TypeError:
        return None, kwargs  # Did not fit before either.
    left = dict(kwargs)
    for name in kwargs:
        parameter = parameters.get(name)
        if name in bound.arguments and parameter and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            bound.arguments[name] = left.pop(name)
    return bound.args, {**bound.kwargs, **left}
