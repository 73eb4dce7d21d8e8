"""Small tools for functions and sequences."""

from __future__ import annotations

import inspect
import operator
from collections import UserList
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice, pairwise
from types import TracebackType
from typing import Any, TypeVar

from kombu.utils.functional import LRUCache, dictfilter, is_list, lazy, maybe_evaluate, maybe_list, memoize

__all__ = (
    "LRUCache",
    "is_list",
    "maybe_list",
    "memoize",
    "mlazy",
    "noop",
    "first",
    "firstmethod",
    "chunks",
    "padlist",
    "mattrgetter",
    "uniq",
    "regen",
    "dictfilter",
    "lazy",
    "maybe_evaluate",
    "head_from_fun",
    "maybe",
    "fun_accepts_kwargs",
)

T = TypeVar("T")


class DummyContext:
    """A context that does nothing."""

    def __enter__(self) -> DummyContext:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


class mlazy(lazy):
    """A value that is computed at the first use and kept."""

    #: Is it computed?
    evaluated = False
    _value: Any = None

    def evaluate(self) -> Any:
        """The value."""
        if not self.evaluated:
            self._value = super().evaluate()  # type: ignore[no-untyped-call]
            self.evaluated = True
        return self._value


def noop(*args: Any, **kwargs: Any) -> None:
    """Take anything, do nothing."""


def pass1(arg: T, *args: Any, **kwargs: Any) -> T:
    """The first argument."""
    return arg


def first(predicate: Callable[[Any], Any] | None, it: Iterable[Any]) -> Any:
    """The first item that the predicate accepts (None: that is not None), or None."""
    accepts = predicate if predicate is not None else (lambda item: item is not None)
    return next((item for item in it if accepts(item)), None)


def firstmethod(method: str, on_call: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function that asks objects (or `lazy` ones) in turn for `method` until one answers something.

    `on_call(bound_method, *args, **kwargs)` does the call, if given. Objects without the method are skipped.
    """

    def ask(it: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        for candidate in it:
            bound = getattr(maybe_evaluate(candidate), method, None)
            if bound is None:
                continue
            answer = on_call(bound, *args, **kwargs) if on_call else bound(*args, **kwargs)
            if answer is not None:
                return answer
        return None

    return ask


def chunks(it: Iterable[T], n: int) -> Iterator[list[T]]:
    """Lists of `n` items, the last one perhaps shorter. `it` must be an iterator, not a sequence."""
    for item in it:
        yield [item, *islice(it, n - 1)]


def padlist(container: Sequence[Any], size: int, default: Any = None) -> list[Any]:
    """Exactly `size` items: what is too much is cut, what is missing is `default`."""
    return list(container)[:size] + [default] * (size - len(container))


def mattrgetter(*attrs: str) -> Callable[[Any], dict[str, Any]]:
    """A function that gives these attributes as a dict; None for those that are missing."""
    return lambda obj: {attr: getattr(obj, attr, None) for attr in attrs}


def uniq(it: Iterable[T]) -> Iterator[T]:
    """Each item once, where it came first."""
    return iter(_seen_once(it))


def _seen_once(it: Iterable[T]) -> Iterator[T]:
    seen: set[T] = set()
    for item in it:
        if item not in seen:
            seen.add(item)
            yield item


def lookahead(it: Iterable[T]) -> Iterator[tuple[T, T | None]]:
    """Each item with the one after it; the last with None."""
    return pairwise(chain(it, [None]))  # type: ignore[list-item]


def regen(it: Any) -> Any:
    """A list or tuple as it is; any other iterable as a list that is filled as it is read."""
    return it if isinstance(it, (list, tuple)) else _regen(it)


class _regen(UserList, list):  # type: ignore[type-arg, misc]
    """A list that takes its items from an iterator when they are asked for.

    A list by type, so that JSON writes it. While it is read, one item more than needed is taken, so that it
    knows at its last item that there is no other. Not for several threads at once.
    """

    def __init__(self, it: Iterable[Any]) -> None:
        # Not calling `UserList.__init__`, which would set `data`.
        self.__source = it
        self.__iterator: Iterator[Any] | None = None
        self.__consumed: list[Any] = []
        self.__done = False

    def __pull(self) -> bool:
        """Take one more item; was there one?"""
        if self.__done:
            return False
        if self.__iterator is None:
            iterator = iter(self.__source)
            # The source may have read this very list while it made the iterator.
            self.__iterator = self.__iterator or iterator
        try:
            item = next(self.__iterator)
        except StopIteration:
            self.__done = True
            return False
        self.__consumed.append(item)
        return True

    @property
    def data(self) -> list[Any]:  # type: ignore[override]
        """All items, as a plain list."""
        while self.__pull():
            pass
        return self.__consumed

    def map(self, func: Callable[[Any], Any]) -> None:
        """Put `func(item)` in the place of each item, now or when it comes."""
        self.__consumed = [func(item) for item in self.__consumed]
        remaining = self.__iterator if self.__iterator is not None else iter(self.__source)
        self.__iterator = map(func, remaining)

    def __iter__(self) -> Iterator[Any]:
        index, pulled = 0, False
        while True:
            if index >= len(self.__consumed):
                pulled = self.__pull()
                if index >= len(self.__consumed):
                    return
            failure = self.__look_ahead(index) if pulled else None
            yield self.__consumed[index]
            if failure is not None:
                raise failure
            index += 1

    def __look_ahead(self, index: int) -> Exception | None:
        # What goes wrong with the next item must not lose this one: it is raised when its turn comes.
        if index + 1 < len(self.__consumed):
            return None
        try:
            self.__pull()
        except Exception as exc:
            return exc
        return None

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.data[index]
        index = operator.index(index)
        if index < 0:
            return self.data[index]
        pulled = False
        while len(self.__consumed) <= index and self.__pull():
            pulled = True
        if pulled:
            self.__look_ahead(index)
        return self.__consumed[index]

    def __bool__(self) -> bool:
        if not self.__consumed:
            # As a reader: with one item more, so that the next reader need not take two more to look ahead.
            next(iter(self), None)
        return bool(self.__consumed)

    def __length_hint__(self) -> int:
        return operator.length_hint(self.__iterator if self.__iterator is not None else self.__source)

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.data,)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self.__reduce__()

    def __repr__(self) -> str:
        items = ", ".join(map(repr, self.__consumed))
        return f"<{type(self).__name__}: [{items}{'' if self.__done else '...'}]>"


def head_from_fun(fun: Callable[..., Any], bound: bool = False) -> Callable[..., Any]:
    """A function with the arguments of `fun` that does nothing.

    Calling it checks arguments with Python's own speed and Python's own TypeError. With `bound` the first
    argument is given already: the task itself.
    """
    name = getattr(fun, "__name__", "")
    if not _has_own_signature(fun):
        name, fun = type(fun).__name__, fun.__call__  # type: ignore[operator]
    definition = f"def _head({_arguments(inspect.getfullargspec(fun))}):\n    return 1\n"
    namespace: dict[str, Any] = {"__name__": fun.__module__}
    # Not `inspect.Signature.bind`: it does the same in Python, at each call of a task.
    exec(definition, namespace)
    head: Callable[..., Any] = namespace["_head"]
    # Renamed afterwards, because a lambda's name is not one that Python accepts after `def`.
    head.__name__ = head.__qualname__ = name
    head._source = definition  # type: ignore[attr-defined]
    return partial(head, object()) if bound else head


def _has_own_signature(fun: Any) -> bool:
    return (
        inspect.isfunction(fun) or inspect.ismethod(fun) or type(fun).__name__ == "cython_function_or_method"
    )


def _arguments(spec: inspect.FullArgSpec) -> str:
    """The arguments as in a `def`; which default it is does not matter, only that there is one."""
    required = len(spec.args) - len(spec.defaults or ())
    parts = [*spec.args[:required], *(f"{name}=None" for name in spec.args[required:])]
    if spec.varargs:
        parts.append(f"*{spec.varargs}")
    elif spec.kwonlyargs:
        parts.append("*")
    optional = spec.kwonlydefaults or {}
    parts += [f"{name}=None" if name in optional else name for name in spec.kwonlyargs]
    if spec.varkw:
        parts.append(f"**{spec.varkw}")
    return ", ".join(parts)


def arity_greater(fun: Callable[..., Any], n: int) -> Any:
    """Does it take more than `n` positional arguments?"""
    spec = inspect.getfullargspec(fun)
    return spec.varargs or len(spec.args) > n


def fun_takes_argument(name: str, fun: Callable[..., Any], position: int | None = None) -> Any:
    """Can it be given the argument `name`, or at least `position` positional ones?"""
    spec = inspect.getfullargspec(fun)
    if spec.varkw or spec.varargs:
        return spec.varkw or spec.varargs
    return len(spec.args) >= position if position else name in spec.args


def fun_accepts_kwargs(fun: Callable[..., Any]) -> bool:
    """Does it take `**kwargs`?"""
    code = getattr(fun, "__code__", None)
    if code is not None:
        # Not through the signature: that would evaluate annotations, which may name what is not imported.
        return bool(code.co_flags & inspect.CO_VARKEYWORDS)
    parameters = inspect.signature(fun).parameters.values()
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)


def maybe(typ: Callable[[Any], Any], val: Any) -> Any:
    """`typ(val)`, but None stays None."""
    return None if val is None else typ(val)


def seq_concat_item(seq: Any, item: Any) -> Any:
    """A copy with `item` at the end; a tuple stays a tuple."""
    return (*seq, item) if isinstance(seq, tuple) else [*seq, item]


def seq_concat_seq(a: Any, b: Any) -> Any:
    """`a` and then `b`, in the type of the longer one (of the first when they are equal)."""
    kind = type(a if len(a) >= len(b) else b)
    left = a if isinstance(a, kind) else kind(a)
    right = b if isinstance(b, kind) else kind(b)
    return left + right


def is_numeric_value(value: Any) -> bool:
    """Is it a number? Booleans are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)
