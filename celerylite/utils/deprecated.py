"""Warnings about what will go away."""

from __future__ import annotations

import warnings
from collections.abc import Callable as _Callable
from functools import wraps
from typing import Any

from celerylite.exceptions import CDeprecationWarning, CPendingDeprecationWarning

from .imports import qualname

__all__ = ("Callable", "Property", "warn")

PENDING_DEPRECATION_FMT = (
    "\n    {description} is scheduled for deprecation in     version {deprecation} "
    "and removal in version v{removal}.     {alternative}\n"
)
DEPRECATION_FMT = (
    "\n    {description} is deprecated and scheduled for removal in\n    version {removal}. {alternative}\n"
)


def warn(
    description: str | None = None,
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    stacklevel: int = 2,
) -> None:
    """Warn that this is deprecated; or, with `deprecation`, that it will be from that version on."""
    text = DEPRECATION_FMT if deprecation is None else PENDING_DEPRECATION_FMT
    category = CDeprecationWarning if deprecation is None else CPendingDeprecationWarning
    message = text.format(
        description=description, deprecation=deprecation, removal=removal, alternative=alternative
    )
    warnings.warn(category(message), stacklevel=stacklevel)


def Callable(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Callable[[_Callable[..., Any]], _Callable[..., Any]]:
    """A decorator for functions: each call warns."""

    def decorate(fun: _Callable[..., Any]) -> _Callable[..., Any]:
        @wraps(fun)
        def warning(*args: Any, **kwargs: Any) -> Any:
            warn(description or qualname(fun), deprecation, removal, alternative, stacklevel=3)
            return fun(*args, **kwargs)

        return warning

    return decorate


def Property(
    deprecation: str | None = None,
    removal: str | None = None,
    alternative: str | None = None,
    description: str | None = None,
) -> _Callable[[_Callable[[Any], Any]], _DeprecatedProperty]:
    """A decorator for properties: each use warns."""

    def decorate(fun: _Callable[[Any], Any]) -> _DeprecatedProperty:
        return _DeprecatedProperty(
            fun,
            deprecation=deprecation,
            removal=removal,
            alternative=alternative,
            description=description or fun.__name__,
        )

    return decorate


class _DeprecatedProperty:
    def __init__(
        self,
        fget: _Callable[[Any], Any],
        fset: _Callable[[Any, Any], None] | None = None,
        fdel: _Callable[[Any], None] | None = None,
        **deprecation: Any,
    ) -> None:
        self._property = property(fget, fset, fdel)
        self._deprecation = {"stacklevel": 3, **deprecation}
        self.__name__ = fget.__name__
        self.__doc__ = fget.__doc__

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        if obj is None:
            return self
        warn(**self._deprecation)
        return self._property.__get__(obj)

    def __set__(self, obj: Any, value: Any) -> None:
        if self._property.fset is None:
            raise AttributeError("cannot set attribute")
        warn(**self._deprecation)
        self._property.__set__(obj, value)

    def __delete__(self, obj: Any) -> None:
        if self._property.fdel is None:
            raise AttributeError("cannot delete attribute")
        warn(**self._deprecation)
        self._property.__delete__(obj)

    def setter(self, fset: _Callable[[Any, Any], None]) -> _DeprecatedProperty:
        """The same with a setter."""
        return self._with(self._property.setter(fset))

    def deleter(self, fdel: _Callable[[Any], None]) -> _DeprecatedProperty:
        """The same with a deleter."""
        return self._with(self._property.deleter(fdel))

    def _with(self, changed: property) -> _DeprecatedProperty:
        assert changed.fget is not None
        return type(self)(changed.fget, changed.fset, changed.fdel, **self._deprecation)
