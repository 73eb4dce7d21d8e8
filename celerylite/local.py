"""Stand-ins for an object that is looked up when it is used."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from types import ModuleType
from typing import Any

__all__ = ("Proxy", "PromiseProxy", "try_import", "maybe_evaluate")


def try_import(module: str, default: Any = None) -> ModuleType | Any:
    """The module of this name, or `default` where it is not installed."""
    try:
        return import_module(module)
    except ImportError:
        return default


def maybe_evaluate(obj: Any) -> Any:
    """The object behind a `PromiseProxy`; anything else as it is."""
    try:
        evaluate = obj.__maybe_evaluate__
    except AttributeError:
        return obj
    return evaluate()


class _OnInstance(str):
    """A class attribute that is text on the class and is computed on an instance.

    pickle, pydoc and warnings want text from `Proxy.__module__` and its like; an instance shows its target's.
    """

    __slots__ = ("_getter",)
    _getter: Callable[[Any], Any]

    def __new__(cls, on_class: str, getter: Callable[[Any], Any]) -> _OnInstance:
        self = super().__new__(cls, on_class)
        self._getter = getter
        return self

    def __get__(self, obj: Any, owner: Any = None) -> Any:
        return self if obj is None else self._getter(obj)


def _own_or_target(slot: str, attribute: str) -> Callable[[Any], Any]:
    def getter(proxy: Any) -> Any:
        own = object.__getattribute__(proxy, slot)
        return own if own is not None else getattr(proxy._get_current_object(), attribute)

    return getter


class Proxy:
    """Stands for what `local(*args, **kwargs)` gives, which is asked at every use.

    `isinstance` sees the class of that object. `_get_current_object()` gives the object itself.
    """

    # Mangled, so that attributes of the target are never hidden.
    __slots__ = ("__args", "__custom_doc", "__custom_name", "__kwargs", "__local")

    def __init__(
        self,
        local: Callable[..., Any],
        args: tuple[Any, ...] | None = None,
        kwargs: dict[str, Any] | None = None,
        name: str | None = None,
        __doc__: str | None = None,
    ) -> None:
        set_slot = object.__setattr__
        set_slot(self, "_Proxy__local", local)
        set_slot(self, "_Proxy__args", args or ())
        set_slot(self, "_Proxy__kwargs", kwargs or {})
        set_slot(self, "_Proxy__custom_name", name)
        set_slot(self, "_Proxy__custom_doc", __doc__)

    __name__ = _OnInstance("Proxy", _own_or_target("_Proxy__custom_name", "__name__"))

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return self._get_current_object().__class__

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        try:
            return self._get_current_object().__dict__
        except RuntimeError:  # nothing is bound here and now
            raise AttributeError("__dict__") from None

    def _get_current_object(self) -> Any:
        """The object behind: to pass on, or to save the look-up where it is used often."""
        return self.__local(*self.__args, **self.__kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __repr__(self) -> str:
        try:
            target = self._get_current_object()
        except RuntimeError:  # nothing is bound here and now
            return f"<{type(self).__name__} unbound>"
        return repr(target)

    def __bool__(self) -> bool:
        try:
            return bool(self._get_current_object())
        except RuntimeError:
            return False

    def __dir__(self) -> list[str]:
        try:
            return dir(self._get_current_object())
        except RuntimeError:
            return []

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self._get_current_object().__reduce_ex__(protocol)


class PromiseProxy(Proxy):
    """A `Proxy` that asks once and keeps the answer."""

    __slots__ = ("__pending", "__thing", "__weakref__")

    def _get_current_object(self) -> Any:
        try:
            return object.__getattribute__(self, "_PromiseProxy__thing")
        except AttributeError:
            return self.__evaluate__()

    def __then__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `fun` as soon as the answer is there: now, or at the first use."""
        if self.__evaluated__():
            return fun(*args, **kwargs)
        try:
            pending = object.__getattribute__(self, "_PromiseProxy__pending")
        except AttributeError:
            pending = deque()
            object.__setattr__(self, "_PromiseProxy__pending", pending)
        pending.append((fun, args, kwargs))
        return None

    def __evaluated__(self) -> bool:
        """Is the answer there?"""
        try:
            object.__getattribute__(self, "_PromiseProxy__thing")
        except AttributeError:
            return False
        return True

    def __maybe_evaluate__(self) -> Any:
        return self._get_current_object()

    def __evaluate__(self) -> Any:
        thing = super()._get_current_object()
        object.__setattr__(self, "_PromiseProxy__thing", thing)
        # What was needed to ask is let go, with all that it refers to.
        for slot in ("_Proxy__local", "_Proxy__args", "_Proxy__kwargs"):
            with suppress(AttributeError):
                object.__delattr__(self, slot)
        self.__run_pending()
        return thing

    def __run_pending(self) -> None:
        try:
            pending = object.__getattribute__(self, "_PromiseProxy__pending")
        except AttributeError:
            return
        try:
            while pending:
                fun, args, kwargs = pending.popleft()
                fun(*args, **kwargs)
        finally:
            with suppress(AttributeError):
                object.__delattr__(self, "_PromiseProxy__pending")


def _forward(function: Callable[..., Any]) -> Callable[..., Any]:
    def method(self: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(self._get_current_object(), *args, **kwargs)

    return method


def _call(target: Any, /, *args: Any, **kwargs: Any) -> Any:
    return target(*args, **kwargs)


def _special(name: str) -> Callable[..., Any]:
    def function(target: Any, *args: Any) -> Any:
        return getattr(target, name)(*args)

    return function


_BY_OPERATOR = [
    "lt",
    "le",
    "eq",
    "ne",
    "gt",
    "ge",
    "getitem",
    "setitem",
    "delitem",
    "contains",
    "add",
    "sub",
    "mul",
    "matmul",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and_",
    "xor",
    "or_",
    "truediv",
    "neg",
    "pos",
    "abs",
    "invert",
    "index",
    "iadd",
    "isub",
    "ior",
    "iand",
]

_BY_FUNCTION: dict[str, Callable[..., Any]] = {
    "__call__": _call,
    "__complex__": complex,
    "__delattr__": delattr,
    "__divmod__": divmod,
    "__float__": float,
    "__hash__": hash,
    "__int__": int,
    "__iter__": iter,
    "__len__": len,
    "__setattr__": setattr,
    "__str__": str,
}

# What has no function of its own. Not `__await__`: every proxy would then look as if it could be awaited.
_BY_NAME = ("__enter__", "__exit__", "__aenter__", "__aexit__")


def _install() -> None:
    """Give `Proxy` the special methods: Python looks them up on the class, past `__getattr__`."""
    for word in _BY_OPERATOR:
        name = f"__{word.rstrip('_')}__"
        setattr(Proxy, name, _forward(getattr(operator, word)))
    for name, function in _BY_FUNCTION.items():
        setattr(Proxy, name, _forward(function))
    for name in _BY_NAME:
        setattr(Proxy, name, _forward(_special(name)))
    # A subclass has plain ones of its own, which would hide those of its parent.
    for cls in (Proxy, PromiseProxy):
        cls.__doc__ = _OnInstance(cls.__doc__ or "", _own_or_target("_Proxy__custom_doc", "__doc__"))
        cls.__module__ = _OnInstance(__name__, lambda self: self._get_current_object().__module__)


_install()
