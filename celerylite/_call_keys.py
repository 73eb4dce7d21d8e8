"""The keys of a call, made of its arguments: which calls are the same one, and which share a limit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import timedelta
from hashlib import sha256
from typing import Any

from kombu.utils import json

__all__ = ("PLACE", "UNIQUE", "check_limit", "has_keys", "headers_with_keys", "place_key", "unique_header")

#: Header of a message that holds a key: the key, the id of its call, and what it asks for.
UNIQUE = "celerylite_unique"
#: Header of a message that needs a place: the key of its limit.
PLACE = "celerylite_place"

#: Longest key that is kept as it is; the column has room for a few more in any encoding.
_LONGEST = 200
#: How much of a longer one is kept, for people.
_SHOWN = 120


def has_keys(task: Any) -> bool:
    """Whether calls of `task` have keys of their own."""
    return bool(task.unique) or task.concurrency_limit is not None


def headers_with_keys(
    task: Any,
    name: str,
    args: Any,
    kwargs: Any,
    headers: Mapping[str, Any] | None,
    *,
    task_id: str,
    **asked: Any,
) -> dict[str, Any]:
    """`headers` with the keys of the call, and without those of another call that they were copied from.

    A retry brings its own key and keeps it. `asked` are the keywords of `unique_header`.
    """
    result = {key: value for key, value in (headers or {}).items() if key not in (UNIQUE, PLACE)}
    unique = (headers or {}).get(UNIQUE)
    if unique is None or unique["id"] != task_id:
        unique = unique_header(task, name, args, kwargs, task_id=task_id, **asked)
    if unique is not None:
        result[UNIQUE] = unique
    if task is not None and task.concurrency_limit is not None:
        result[PLACE] = place_key(task, name, args, kwargs)
    return result


def unique_header(
    task: Any,
    name: str,
    args: Any,
    kwargs: Any,
    *,
    task_id: str,
    key: Any = None,
    lasts: Any = None,
    raises: bool = False,
) -> dict[str, Any] | None:
    """What a message says of its key; None for a call that has none.

    `key` and `lasts` are those of the call, None for those of the task; False is no key. Raises TypeError
    and ValueError for what is no key or time.
    """
    if key is False:
        return None
    if key is None and task is not None and task.unique:
        key = _unique_key_of(task, name, args, kwargs)
    if key is None and lasts is None:
        return None
    if not isinstance(key, str) or not key:
        raise TypeError(
            f"task {name}: unique_key: expected a text such as 'invoice-17', got {key!r}; or declare the "
            "task with unique=True"
        )
    header: dict[str, Any] = {"key": _storable(key), "id": task_id}
    if lasts is None and task is not None:
        lasts = task.unique_for
    if lasts is not None:
        header["for"] = _seconds(lasts)
    if raises or (task is not None and task.raise_on_duplicate):
        header["raise"] = True
    return header


def check_limit(name: str, limit: Any) -> None:
    """Raise ValueError for what is no limit, in the definition of a task that is called `name`."""
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ValueError(
            f"task {name}: concurrency_limit: expected a whole number of at least 1, got {limit!r}; "
            "leave it out for no limit"
        )


def place_key(task: Any, name: str, args: Any, kwargs: Any) -> str:
    """The key of the limit that calls of `task` with these arguments share.

    Raises ValueError for a limit that is none, TypeError for a key that does not fit the arguments.
    """
    check_limit(name, task.concurrency_limit)
    key = task.concurrency_key
    if key is None:
        return _storable(name)
    if isinstance(key, str):
        arguments = _by_name(task, args, kwargs)
        try:
            value = key.format_map(arguments)
        except (KeyError, IndexError, ValueError, AttributeError) as exc:
            raise TypeError(
                f"task {name}: concurrency_key: expected names of its arguments in braces "
                f"({', '.join(map(str, arguments))}), got {key!r}"
            ) from exc
    else:
        value = key(tuple(args or ()), dict(kwargs or {}))
    return _storable(f"{name}:{value}")


def _unique_key_of(task: Any, name: str, args: Any, kwargs: Any) -> str:
    if callable(task.unique):
        return f"{name}:{task.unique(tuple(args or ()), dict(kwargs or {}))}"
    arguments = _by_name(task, args, kwargs)
    if task.unique_on is not None:
        arguments = _only(arguments, task.unique_on, name)
    try:
        text = json.dumps(arguments, sort_keys=True, separators=(",", ":"))
    except TypeError as exc:
        raise TypeError(
            f"task {name}: unique=True: expected arguments that JSON can hold, got {exc}; "
            "give a function from args and kwargs to a text, unique=lambda args, kwargs: ..."
        ) from exc
    return f"{name}({text})"


def _only(arguments: Mapping[str, Any], names: Any, task_name: str) -> dict[str, Any]:
    wanted = [names] if isinstance(names, str) else list(names)
    missing = [each for each in wanted if each not in arguments]
    if missing:
        raise TypeError(
            f"task {task_name}: unique_on: expected names of its arguments ({', '.join(arguments)}), "
            f"got {missing[0]!r}"
        )
    return {each: arguments[each] for each in wanted}


def _by_name(task: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """The arguments by name, defaults included: `f(1)` and `f(x=1)` are one call."""
    try:
        bound = inspect.signature(task.run).bind(*(args or ()), **(kwargs or {}))
    except (TypeError, ValueError):
        # They do not fit: the call will fail, or `run` cannot be looked into.
        return {**{str(i): each for i, each in enumerate(args or ())}, **(kwargs or {})}
    bound.apply_defaults()
    return dict(bound.arguments)


def _storable(key: str) -> str:
    # What databases cut off, refuse or take for equal (spaces at the end) is told by a hash.
    if len(key) <= _LONGEST and key.isprintable() and not key.endswith(" "):
        return key
    shown = "".join(each if each.isprintable() else "?" for each in key[:_SHOWN])
    return f"{shown}#{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _seconds(lasts: Any) -> float:
    seconds = lasts.total_seconds() if isinstance(lasts, timedelta) else lasts
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0:
        raise ValueError(f"unique_for: expected a number of seconds above 0, got {lasts!r}")
    return float(seconds)
