"""Small tools for objects."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import reduce
from operator import getitem
from typing import Any

__all__ = ("Bunch", "FallbackContext", "getitem_property", "mro_lookup")


class Bunch:
    """An object with the attributes that it is given."""

    def __init__(self, **kwargs: Any) -> None:
        self.__dict__.update(kwargs)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def mro_lookup(cls: type, attr: str, stop: Any = None, monkey_patched: Any = None) -> type | None:
    """The class, from `cls` upwards, that defines the attribute; None when it is not before `stop`.

    A class in `stop` counts only where the attribute comes from a module that is not in `monkey_patched`.
    """
    for node in cls.mro():
        if stop and node in stop:
            origin = getattr(node.__dict__.get(attr), "__module__", None)
            return node if origin is not None and origin not in (monkey_patched or ()) else None
        if attr in node.__dict__:
            return node
    return None


class FallbackContext:
    """A context that gives `provided` and leaves it open, or else enters and leaves a new one."""

    def __init__(self, provided: Any, fallback: Callable[..., Any], *fb_args: Any, **fb_kwargs: Any) -> None:
        self.provided = provided
        self.fallback = fallback
        self.fb_args = fb_args
        self.fb_kwargs = fb_kwargs
        self._context: Any = None

    def __enter__(self) -> Any:
        if self.provided is not None:
            return self.provided
        context = self.fallback(*self.fb_args, **self.fb_kwargs)
        value = context.__enter__()
        self._context = context
        return value

    def __exit__(self, *exc_info: Any) -> Any:
        return None if self._context is None else self._context.__exit__(*exc_info)

    __class_getitem__: Any = classmethod(types.GenericAlias)


class getitem_property:
    """An attribute that is an item: `x = getitem_property("options.x")` is `self["options"]["x"]`.

    None where the last key is missing.
    """

    def __init__(self, keypath: str, doc: str | None = None) -> None:
        path, _, self.key = keypath.rpartition(".")
        self.path: list[str] = path.split(".") if path else []
        self.__doc__ = doc

    def _path(self, obj: Any) -> Any:
        return reduce(getitem, self.path, obj)

    def __get__(self, obj: Any, type: Any = None) -> Any:
        # As Celery: on the class it is the class.
        return type if obj is None else self._path(obj).get(self.key)

    def __set__(self, obj: Any, value: Any) -> None:
        self._path(obj)[self.key] = value
