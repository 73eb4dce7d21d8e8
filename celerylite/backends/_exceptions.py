"""Exceptions as data: how they are stored, and made again from what was stored."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from celerylite.exceptions import SecurityError
from celerylite.utils.serialization import (
    create_exception_cls,
    ensure_serializable,
    get_pickleable_exception,
    get_pickled_exception,
)

__all__ = ("CARRIES_EXCEPTIONS", "from_stored", "to_store")

#: Serializers that keep exceptions as they are.
CARRIES_EXCEPTIONS = frozenset({"pickle"})


def to_store(exc: BaseException, serializer: str, encode: Callable[[Any], Any]) -> Any:
    """`exc` in the form that `serializer` can hold: itself, or its type, module and arguments."""
    if serializer in CARRIES_EXCEPTIONS:
        return get_pickleable_exception(exc)
    cls = type(exc)
    return {
        "exc_type": getattr(cls, "__qualname__", cls.__name__),
        "exc_message": ensure_serializable(exc.args, encode),
        "exc_module": cls.__module__,
    }


def from_stored(stored: Any, serializer: str) -> BaseException | None:
    """The exception that `stored` describes, of its own class where that is loaded.

    Raises TypeError and ValueError for what describes none, and SecurityError for a class that is no
    exception: stored data must never choose what else is called.
    """
    if not stored:
        return None
    if isinstance(stored, BaseException):
        return get_pickled_exception(stored) if serializer in CARRIES_EXCEPTIONS else stored
    fields = _as_mapping(stored)
    if "exc_type" not in fields:
        raise ValueError("Exception information must include the exception type")
    name, module = fields["exc_type"], fields.get("exc_module")
    message = fields.get("exc_message", "")
    cls = _find_class(name, module)
    if not isinstance(cls, type) or not issubclass(cls, BaseException):
        shown = name if module is None else f"{module}.{name}"
        raise SecurityError(f"Expected an exception class, got {shown} with payload {message}")
    return _instance(cls, message)


def _as_mapping(stored: Any) -> dict[str, Any]:
    try:
        return dict(stored)
    except (TypeError, ValueError) as exc:
        # As Celery: the sentence users see.
        raise TypeError(
            "If the stored exception isn't an instance of BaseException, it must be a dictionary.\n"
            f"Instead got: {stored}"
        ) from exc


def _find_class(name: str, module: str | None) -> Any:
    if module is None:
        return create_exception_cls(name, __name__)
    # Only what is loaded: stored data must not make this process import modules.
    found: Any = sys.modules.get(module) or sys.modules.get(_ours(module))
    for part in name.split("."):
        found = getattr(found, part, None)
    return create_exception_cls(name, "celerylite.exceptions") if found is None else found


def _ours(module: str) -> str:
    # A database may hold failures that were written by Celery itself.
    return "celerylite" + module.removeprefix("celery") if module.partition(".")[0] == "celery" else module


def _instance(cls: type[BaseException], message: Any) -> BaseException:
    try:
        return cls(*message) if isinstance(message, tuple | list) else cls(message)
    except Exception:
        return Exception(f"{cls}({message})")
