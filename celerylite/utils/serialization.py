"""Exceptions and other objects made fit to be stored."""

from __future__ import annotations

import datetime
import numbers
import pickle
import sys
from base64 import b64decode as _b64decode
from base64 import b64encode as _b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from inspect import getmro
from itertools import takewhile
from typing import Any, NoReturn

from kombu.abstract import Object as _KombuObject
from kombu.utils.encoding import bytes_to_str, safe_repr, str_to_bytes

__all__ = (
    "UnpickleableExceptionWrapper",
    "subclass_exception",
    "find_pickleable_exception",
    "create_exception_cls",
    "get_pickleable_exception",
    "get_pickleable_etype",
    "get_pickled_exception",
    "strtobool",
)

#: Too general to stand for an exception that cannot be pickled.
unwanted_base_classes = (Exception, BaseException, object)

STRTOBOOL_DEFAULT_TABLE = {
    "true": True,
    "yes": True,
    "on": True,
    "1": True,
    "false": False,
    "no": False,
    "off": False,
    "0": False,
}


def subclass_exception(name: str, parent: type[BaseException], module: str) -> type[BaseException]:
    """A new exception class of this name, as if it were defined in `module`."""
    return type(name, (parent,), {"__module__": module})


def create_exception_cls(
    name: str, module: str, parent: type[BaseException] | None = None
) -> type[BaseException]:
    """A new exception class that stands for one that is not there."""
    return subclass_exception(name, parent or Exception, module)


def itermro(cls: type, stop: Iterable[type]) -> Iterator[type]:
    """The class and its parents up to the first one in `stop`."""
    unwanted = tuple(stop)
    return takewhile(lambda parent: parent not in unwanted, getmro(cls))


def find_pickleable_exception(
    exc: BaseException,
    loads: Callable[[Any], Any] = pickle.loads,
    dumps: Callable[[Any], Any] = pickle.dumps,
) -> BaseException | None:
    """The exception as an instance of the nearest parent class that can be pickled; None if there is none."""
    for parent in itermro(type(exc), unwanted_base_classes):
        try:
            candidate: BaseException = parent(*getattr(exc, "args", ()))
            loads(dumps(candidate))
        except Exception:
            continue
        return candidate
    return None


def ensure_serializable(items: Iterable[Any], encoder: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The items, those that `encoder` fails on as their repr."""
    return tuple(item if _works(encoder, item) else safe_repr(item) for item in items)


def _works(function: Callable[[Any], Any], item: Any) -> bool:
    try:
        function(item)
    except Exception:
        return False
    return True


def _round_trip(item: Any) -> Any:
    return pickle.loads(pickle.dumps(item))


class UnpickleableExceptionWrapper(Exception):
    """Stands for an exception that cannot be pickled: its class by name, its arguments and its text."""

    #: Module of the original's class.
    exc_module: str
    #: Name of the original's class.
    exc_cls_name: str
    #: Arguments of the original; what cannot be pickled is a repr.
    exc_args: tuple[Any, ...]

    def __init__(
        self, exc_module: str, exc_cls_name: str, exc_args: Iterable[Any], text: str | None = None
    ) -> None:
        safe_args = ensure_serializable(exc_args, _round_trip)
        super().__init__(exc_module, exc_cls_name, safe_args, text)
        self.exc_module = exc_module
        self.exc_cls_name = exc_cls_name
        self.exc_args = safe_args
        self.text = text

    def restore(self) -> BaseException:
        """An exception whose class has the name of the original's."""
        return create_exception_cls(self.exc_cls_name, self.exc_module)(*self.exc_args)

    def __str__(self) -> str:
        return self.text or ""

    @classmethod
    def from_exception(cls, exc: BaseException) -> UnpickleableExceptionWrapper:
        """The stand-in for `exc`, with its traceback."""
        kind = type(exc)
        wrapper = cls(kind.__module__, kind.__name__, getattr(exc, "args", ()), safe_repr(exc))
        return wrapper.with_traceback(exc.__traceback__)


def get_pickleable_exception(exc: Any) -> Any:
    """`exc` if it can be pickled, else what comes nearest: a parent class, or a wrapper."""
    if _works(_round_trip, exc):
        return exc
    return find_pickleable_exception(exc) or UnpickleableExceptionWrapper.from_exception(exc)


def get_pickleable_etype(
    cls: type,
    loads: Callable[[Any], Any] = pickle.loads,
    dumps: Callable[[Any], Any] = pickle.dumps,
) -> type:
    """The class if it can be pickled, else Exception."""
    return cls if _works(lambda item: loads(dumps(item)), cls) else Exception


def get_pickled_exception(exc: Any) -> Any:
    """What `get_pickleable_exception` was given, as far as it can be had back."""
    return exc.restore() if isinstance(exc, UnpickleableExceptionWrapper) else exc


def b64encode(s: str | bytes) -> str:
    """Base 64 as text."""
    encoded: str = bytes_to_str(_b64encode(str_to_bytes(s)))
    return encoded


def b64decode(s: str | bytes) -> bytes:
    """The bytes behind base 64."""
    return _b64decode(str_to_bytes(s))


def strtobool(term: Any, table: Mapping[str, bool] | None = None) -> Any:
    """A bool from yes/no, true/false, on/off or 1/0; what is no text as it is.

    Raises TypeError for other text.
    """
    if not isinstance(term, str):
        return term
    try:
        return (STRTOBOOL_DEFAULT_TABLE if table is None else table)[term.lower()]
    except KeyError:
        raise TypeError(f"Cannot coerce {term!r} to type bool") from None


def _date_to_json(moment: datetime.date | datetime.time) -> str:
    """ISO 8601 as JavaScript has it: milliseconds, and Z for UTC."""
    if not isinstance(moment, (datetime.datetime, datetime.time)):
        return moment.isoformat()
    text = moment.isoformat(timespec="milliseconds") if moment.microsecond else moment.isoformat()
    if isinstance(moment, datetime.datetime):
        return text.removesuffix("+00:00") + "Z" if text.endswith("+00:00") else text
    # As Celery: a time with microseconds loses its offset.
    return text[:12] if moment.microsecond else text


def jsonify(
    obj: Any,
    builtin_types: tuple[type, ...] = (numbers.Real, str),
    key: Any = None,
    keyfilter: Callable[[Any], Any] | None = None,
    unknown_type_filter: Callable[[Any], Any] | None = None,
) -> Any:
    """The object made of what JSON knows.

    Keys that `keyfilter` refuses are left out. What is unknown goes through `unknown_type_filter`; raises
    ValueError where there is none.
    """

    def convert(value: Any, key: Any = key) -> Any:
        return jsonify(value, builtin_types, key, keyfilter, unknown_type_filter)

    if isinstance(obj, _KombuObject):
        obj = obj.as_dict(recurse=True)
    if obj is None or isinstance(obj, builtin_types):
        return obj
    if isinstance(obj, (tuple, list)):
        return [convert(item) for item in obj]
    if isinstance(obj, dict):
        return {k: convert(v, k) for k, v in obj.items() if not keyfilter or keyfilter(k)}
    if isinstance(obj, (datetime.date, datetime.time)):
        return _date_to_json(obj)
    if isinstance(obj, datetime.timedelta):
        return str(obj)
    if unknown_type_filter is None:
        raise ValueError(f"Unsupported type: {type(obj)!r} {obj!r} (parent: {key})")
    return unknown_type_filter(obj)


def raise_with_context(exc: BaseException) -> NoReturn:
    """Raise `exc` with the exception being handled, if any, as its cause."""
    current = sys.exc_info()[1]
    if current is exc:
        raise exc
    raise exc from current
