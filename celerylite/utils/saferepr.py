"""A repr that is bounded in length and depth, so that any argument can be logged."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from numbers import Number
from typing import Any

from .text import truncate

__all__ = ("saferepr", "reprstream")

#: Start, end.
_Brackets = tuple[str, str]

_LIST: _Brackets = ("[", "]")
_TUPLE: _Brackets = ("(", ")")
_TUPLE_OF_ONE: _Brackets = ("(", ",)")
_SET: _Brackets = ("{", "}")
_DICT: _Brackets = ("{", "}")


class _FullError(Exception):
    """The length is used up."""


def saferepr(o: Any, maxlen: int | None = None, maxlevels: int = 3, seen: set[int] | None = None) -> str:
    """Like `repr`, about `maxlen` characters long: what is left out is `...`, and brackets are closed.

    Containers deeper than `maxlevels` (0: no limit) and those that contain themselves are cut. Never raises.
    Give a `maxlen`: without it a large object is walked through as a whole.
    """
    text = plainrepr(o, maxlen)
    if text is not None:
        return text
    writer = _Writer(maxlen, maxlevels, set(seen or ()))
    try:
        writer.write(o, 0)
    except _FullError:
        writer.parts.insert(writer.mark, ", ...")
    return "".join(writer.parts)


_EMPTY: dict[type, str] = {tuple: "()", dict: "{}", list: "[]"}
#: Of these Python itself writes the same, in at most `_SHORT_CHARS` characters.
_SHORT = frozenset({bool, float, type(None)})
_SHORT_CHARS = 30
_HUGE = 10**24


def plainrepr(o: Any, maxlen: int | None) -> str | None:
    """`saferepr` of what is empty, or a list or tuple of a few numbers; None for anything else.

    The arguments of most calls are of this kind, and each call that is sent shows its arguments.
    """
    if type(o) not in _EMPTY:
        return None
    if not o:
        return _EMPTY[type(o)]
    if type(o) is dict or (maxlen is not None and maxlen < _SHORT_CHARS * len(o)):
        return None
    short = all(type(item) in _SHORT or (type(item) is int and -_HUGE < item < _HUGE) for item in o)
    return repr(o) if short else None


def reprstream(
    stack: Iterable[Iterable[Any]], seen: set[int] | None = None, maxlevels: int = 3
) -> Iterator[str]:
    """The repr of each object of each iterable, piece by piece."""
    for objects in stack:
        for item in objects:
            writer = _Writer(None, maxlevels, set(seen or ()))
            writer.write(item, 0)
            yield from writer.parts


class _Writer:
    """Collects the pieces of one repr and counts what is left of its length."""

    __slots__ = ("left", "mark", "maxlevels", "parts", "seen")

    def __init__(self, maxlen: int | None, maxlevels: int, seen: set[int]) -> None:
        self.left = maxlen
        self.maxlevels = maxlevels
        self.seen = seen
        self.parts: list[str] = []
        #: Where the "..." goes when the length is used up: before the brackets that are then closed.
        self.mark = 0

    def emit(self, text: str) -> None:
        if self.left is not None:
            self.check_room()
            self.left -= len(text)
        self.parts.append(text)

    def check_room(self) -> None:
        if self.left is not None and self.left <= 0:
            self.mark = len(self.parts)
            raise _FullError

    def write(self, value: Any, level: int) -> None:
        left = self.left
        if left is not None and left <= 0:
            self.check_room()
        leaf = _LEAVES.get(type(value)) or _leaf_for(value)
        if leaf is not None:
            text = leaf(value, left)
            self.parts.append(text)
            if left is not None:
                self.left = left - len(text)
            return
        if isinstance(value, (set, frozenset)) and not value:
            self.emit(f"{type(value).__name__}()")
            return
        self.write_container(value, _brackets(value), level)

    def write_container(self, value: Any, brackets: _Brackets, level: int) -> None:
        start, end = brackets
        if self.maxlevels and level >= self.maxlevels:
            self.emit(f"{start}...{end}")
            return
        key = id(value)
        if key in self.seen:
            self.emit(f"<Recursion on {type(value).__name__} with id={key}>")
            return
        self.emit(start)
        self.seen.add(key)
        try:
            self.write_items(value, level + 1)
        finally:
            # Closed even when there is no room left, and not held back by it.
            self.seen.discard(key)
            self.parts.append(end)
            if self.left is not None:
                self.left -= len(end)

    def write_key(self, key: Any) -> None:
        leaf = _LEAVES.get(type(key))
        self.check_room()
        # A key of several parts starts anew: neither its depth nor what it has seen counts from outside.
        self.emit(leaf(key, self.left) if leaf else saferepr(key, self.left, self.maxlevels))

    def write_items(self, value: Any, level: int) -> None:
        pairs = isinstance(value, dict)
        for index, item in enumerate(value):
            if index:
                self.emit(", ")
            if pairs:
                self.write_key(item)
                self.emit(": ")
                self.write(value[item], level)
            else:
                self.write(item, level)


def _brackets(value: Any) -> _Brackets:
    kind = type(value)
    if isinstance(value, (set, frozenset)):
        return _SET if kind is set else (f"{kind.__name__}({{", "})")
    if isinstance(value, tuple):
        return _TUPLE_OF_ONE if len(value) == 1 else _TUPLE
    return _DICT if isinstance(value, dict) else _LIST


Leaf = Callable[[Any, "int | None"], str]


def _leaf_for(value: Any) -> Leaf | None:
    """How to show a value that has no parts; None for a container."""
    if isinstance(value, Decimal):
        return _object
    if isinstance(value, Number):
        return _number
    if isinstance(value, str):
        return _text
    if isinstance(value, bytes):
        return _bytes
    if isinstance(value, (set, frozenset, tuple, dict, list)):
        return None
    return _object


def _number(value: Any, maxlen: int | None) -> str:
    try:
        return truncate(str(value), maxlen)
    except Exception:  # an integer of more digits than Python converts, or a number of the user's own
        return _object(value, maxlen)


def _text(value: str, maxlen: int | None) -> str:
    return "'" + truncate(value, maxlen).replace("'", "\\'") + "'"


def _bytes(value: bytes, maxlen: int | None) -> str:
    cut = bool(maxlen and len(value) > maxlen)
    shown = value[:maxlen] if cut else value
    try:
        text = shown.decode("utf-8")
    except UnicodeDecodeError:
        text = shown.hex()
    return f"b'{text}{'...' if cut else ''}'"


def _object(value: Any, maxlen: int | None) -> str:
    try:
        text = repr(value)
    except Exception as exc:
        stack = "\n".join(traceback.format_stack())
        text = f"<Unrepresentable {type(value)!r}{id(value):#x}: {exc!r} {stack!r}>"
    return truncate(text, maxlen)


#: The common kinds by exact type, so that small arguments cost no chain of tests.
_LEAVES: dict[type, Leaf] = {
    bool: _number,
    bytes: _bytes,
    float: _number,
    int: _number,
    str: _text,
    type(None): _object,
}
