"""Mappings, sets and buffers with a twist."""

from __future__ import annotations

import sys
from collections import OrderedDict as _OrderedDict
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, MutableSet, Sequence
from heapq import heapify, heappop, heappush
from itertools import chain, count
from queue import Empty
from typing import Any

from celerylite import _clock

from .functional import first, uniq
from .text import match_case

__all__ = (
    "AttributeDictMixin",
    "AttributeDict",
    "BufferMap",
    "ChainMap",
    "ConfigurationView",
    "DictAttribute",
    "Evictable",
    "LimitedSet",
    "Messagebuffer",
    "OrderedDict",
    "force_mapping",
    "lpmerge",
)


def force_mapping(m: Any) -> Any:
    """A mapping as it is; any other object as a mapping of its attributes."""
    # Django's settings are lazy objects. Looked up among the loaded modules, so as not to load Django.
    django = sys.modules.get("django.utils.functional")
    if django is not None and isinstance(m, django.LazyObject):
        m = m._wrapped
    return m if isinstance(m, Mapping) else DictAttribute(m)


def lpmerge(L: Any, R: Mapping[Any, Any]) -> Any:
    """Put into `L` all of `R` that is not None; `L` itself."""
    for key, value in R.items():
        if value is not None:
            L[key] = value
    return L


class OrderedDict(_OrderedDict[Any, Any]):
    """An ordered dict that knows its oldest key."""

    def _LRUkey(self) -> Any:
        return next(iter(self))


class AttributeDictMixin:
    """Items that can be had as attributes: `d.key` is `d['key']`."""

    def __getattr__(self, k: str) -> Any:
        try:
            return self[k]  # type: ignore[index]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}") from None

    def __setattr__(self, key: str, value: Any) -> None:
        self[key] = value


class AttributeDict(dict[Any, Any], AttributeDictMixin):
    """A dict whose items can be had as attributes."""


class DictAttribute:
    """Attributes of an object that can be had as items: `d['key']` is `obj.key`."""

    obj: Any = None

    def __init__(self, obj: Any) -> None:
        object.__setattr__(self, "obj", obj)

    def __getattr__(self, key: str) -> Any:
        return getattr(self.obj, key)

    def __setattr__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self.obj, key)
        except AttributeError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        setattr(self.obj, key, value)

    def __contains__(self, key: str) -> bool:
        return hasattr(self.obj, key)

    def __iter__(self) -> Iterator[str]:
        return iter(dir(self.obj))

    def get(self, key: str, default: Any = None) -> Any:
        """The attribute, or `default`."""
        return getattr(self.obj, key, default)

    def setdefault(self, key: str, default: Any = None) -> None:
        """Set the attribute if it is not there."""
        if key not in self:
            self[key] = default

    def keys(self) -> Iterator[str]:
        """Names of all attributes."""
        return iter(self)

    def values(self) -> Iterator[Any]:
        """All attributes."""
        return (getattr(self.obj, key) for key in self)

    def items(self) -> Iterator[tuple[str, Any]]:
        """Names and values of all attributes."""
        return ((key, getattr(self.obj, key)) for key in self)

    iterkeys = _iterate_keys = keys
    itervalues = _iterate_values = values
    iteritems = _iterate_items = items


MutableMapping.register(DictAttribute)


class ChainMap(MutableMapping[Any, Any]):
    """Several mappings read as one: the first that has the key wins. Changes go to the first."""

    key_t: Callable[[Any], Any] | None = None
    changes: Any = None
    defaults: Any = None
    maps: Any = None
    _observers: Any = ()

    def __init__(self, *maps: Any, **kwargs: Any) -> None:
        chained = list(maps) or [{}]
        # Not by assignment: in a subclass with attribute access that would set an item.
        self.__dict__.update(
            key_t=kwargs.get("key_t"),
            maps=chained,
            changes=chained[0],
            defaults=chained[1:],
            _observers=[],
        )

    def add_defaults(self, d: Any) -> None:
        """Put a mapping right behind the first."""
        mapping = force_mapping(d)
        self.defaults.insert(0, mapping)
        self.maps.insert(1, mapping)

    def bind_to(self, callback: Callable[..., Any]) -> None:
        """Call this with the arguments of every `update`."""
        self._observers.append(callback)

    def __missing__(self, key: Any) -> Any:
        raise KeyError(key)

    def _key(self, key: Any) -> Any:
        return key if self.key_t is None else self.key_t(key)

    def __getitem__(self, key: Any) -> Any:
        wanted = self._key(key)
        for mapping in self.maps:
            try:
                return mapping[wanted]
            except KeyError:
                continue
        return self.__missing__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.changes[self._key(key)] = value

    def __delitem__(self, key: Any) -> None:
        try:
            del self.changes[self._key(key)]
        except KeyError:
            raise KeyError(f"Key not found in first mapping: {key!r}") from None

    def __len__(self) -> int:
        return len(set().union(*self.maps))

    def __iter__(self) -> Iterator[Any]:
        return self._iterate_keys()

    def __contains__(self, key: Any) -> bool:
        wanted = self._key(key)
        return any(wanted in mapping for mapping in self.maps)

    def __bool__(self) -> bool:
        return any(self.maps)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.maps))})"

    def get(self, key: Any, default: Any = None) -> Any:
        """The value, or `default`."""
        try:
            return self[key]
        except KeyError:
            return default

    def pop(self, key: Any, *default: Any) -> Any:
        """Take it out of the first mapping."""
        try:
            return self.maps[0].pop(self._key(key), *default)
        except KeyError:
            raise KeyError(f"Key not found in the first mapping: {key!r}") from None

    def clear(self) -> None:
        """Empty the first mapping."""
        self.changes.clear()

    def setdefault(self, key: Any, default: Any = None) -> None:
        """Set it in the first mapping if no mapping has it."""
        if key not in self:
            self[key] = default

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Change the first mapping, and tell those that are bound to this."""
        # As one dict: pairs may come from a generator, which can be read only once.
        merged = (dict(*args),) if args else ()
        result = self.changes.update(*merged, **kwargs)
        for callback in self._observers:
            callback(*merged, **kwargs)
        return result

    @classmethod
    def fromkeys(cls, iterable: Iterable[Any], *args: Any) -> ChainMap:
        """One mapping with these keys."""
        return cls(dict.fromkeys(iterable, *args))

    def copy(self) -> ChainMap:
        """The same with a copy of the first mapping."""
        return type(self)(self.maps[0].copy(), *self.maps[1:])

    def __copy__(self) -> ChainMap:
        return self.copy()

    def _iter(self, op: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
        return chain.from_iterable(op(mapping) for mapping in reversed(self.maps))

    def _iterate_keys(self) -> Iterator[Any]:
        return uniq(self._iter(lambda mapping: mapping.keys()))

    def _iterate_values(self) -> Iterator[Any]:
        return (self[key] for key in self)

    def _iterate_items(self) -> Iterator[tuple[Any, Any]]:
        return ((key, self[key]) for key in self)

    iterkeys = keys = _iterate_keys  # type: ignore[assignment]
    itervalues = values = _iterate_values  # type: ignore[assignment]
    iteritems = items = _iterate_items  # type: ignore[assignment]


class ConfigurationView(ChainMap, AttributeDictMixin):
    """The settings of an app: changes before defaults, names with or without prefix, old or new.

    `keys` are functions from a name to another name that it may be stored under.
    """

    def __init__(
        self, changes: Any, defaults: Any = None, keys: Any = None, prefix: str | None = None
    ) -> None:
        super().__init__(changes, *(defaults or ()))
        prefix = prefix.rstrip("_") + "_" if prefix else prefix
        self.__dict__.update(prefix=prefix, _keys=keys, _names={})

    def copy(self) -> ConfigurationView:
        """The same with a copy of the changes."""
        copied = type(self)(self.changes.copy(), self.defaults, self._keys, self.prefix)
        copied.__dict__["key_t"] = self.key_t
        return copied

    def _to_keys(self, key: str) -> tuple[str, ...]:
        """All names the setting may be stored under, the likeliest first."""
        prefix = self.prefix
        names: tuple[str, ...] = (key,)
        if prefix:
            full = key if key.startswith(prefix) else prefix + key
            names = (match_case(full, prefix), key)
        return names + tuple(rename(key) for rename in self._keys or ())

    def _stored_names(self, key: str) -> tuple[Any, ...]:
        # Remembered: each call of a task reads some ten settings, and their names do not change.
        names: tuple[Any, ...] | None = self._names.get(key)
        if names is None:
            names = self._names[key] = tuple(map(self._key, dict.fromkeys(self._to_keys(key))))
        return names

    def __getitem__(self, key: str) -> Any:
        names = self._stored_names(key)
        for mapping in self.maps:
            if type(mapping) is dict:
                # Not by a KeyError for each absent name: that takes three times as long.
                for name in names:
                    if name in mapping:
                        return mapping[name]
            else:
                value = _look_up(mapping, names)
                if value is not _ABSENT:
                    return value
        try:
            return self.__missing__(key)
        except KeyError:
            names = self._to_keys(key)
            if self.prefix and len(names) > 1:
                message = f"Key not found: {names[1]!r} (with prefix: {names[0]!r})"
                raise KeyError(message) from None
            raise

    def __contains__(self, key: Any) -> bool:
        contains = super().__contains__
        return any(contains(name) for name in self._to_keys(key))

    def first(self, *keys: str) -> Any:
        """The first of these settings that is not None."""
        return first(None, map(self.get, keys))

    def swap_with(self, other: ConfigurationView) -> None:
        """Become a view of what `other` is a view of."""
        theirs = other.__dict__
        shared = {name: theirs[name] for name in ("changes", "defaults", "key_t", "prefix", "_keys")}
        self.__dict__.update(shared, maps=[theirs["changes"], *theirs["defaults"]], _names={})


_ABSENT = object()


def _look_up(mapping: Any, names: Iterable[Any]) -> Any:
    for name in names:
        try:
            return mapping[name]
        except KeyError:
            continue
    return _ABSENT


class LimitedSet:
    """A set that forgets: what is too old (`expires` seconds) or too much (`maxlen`), oldest first.

    Age never takes it below `minlen`. 0 means no limit. Insertion times are of the monotonic clock of this
    machine, so a set from another machine is merged by its items, not as a whole.
    """

    #: The heap is rebuilt when it is so many per cent larger than the data.
    max_heap_percent_overload = 15

    def __init__(
        self, maxlen: int | None = 0, expires: float | None = 0, data: Any = None, minlen: int | None = 0
    ) -> None:
        self.maxlen = maxlen or 0
        self.minlen = minlen or 0
        self.expires = expires or 0
        #: Item to `(inserted, number, item)`; the number keeps the heap from comparing items.
        self._data: dict[Any, tuple[float, int, Any]] = {}
        #: The same entries, oldest first, and some that are outdated.
        self._heap: list[tuple[float, int, Any]] = []
        self._seq = count()
        if data:
            self.update(data)
        if not self.maxlen >= self.minlen >= 0:
            raise ValueError("minlen must be a positive number, less or equal to maxlen.")
        if self.expires < 0:
            raise ValueError("expires cannot be negative!")

    def add(self, item: Any, now: float | None = None) -> None:
        """Put it in, as new even if it is there."""
        self._insert(item, _clock.monotonic() if now is None else float(now))
        if self.maxlen and len(self._data) >= self.maxlen:
            self.purge()

    def _insert(self, item: Any, inserted: float) -> None:
        if item in self._data:
            self.discard(item)
        entry = (inserted, next(self._seq), item)
        self._data[item] = entry
        heappush(self._heap, entry)

    def update(self, other: Any) -> None:
        """Put in another set with its times, a dict of items and times, or items as new ones."""
        if isinstance(other, LimitedSet):
            for inserted, _, item in sorted(other._data.values(), key=lambda entry: entry[:2]):
                self._data[item] = (inserted, next(self._seq), item)
            self._refresh_heap()
            self.purge()
        elif isinstance(other, dict):
            for item, inserted in other.items():
                self.add(item, _inserted(inserted))
        else:
            for item in other or ():
                self.add(item)

    def discard(self, item: Any) -> None:
        """Take it out, if it is there."""
        self._data.pop(item, None)
        if self._heap_overload >= self.max_heap_percent_overload:
            self._refresh_heap()

    pop_value = discard

    def clear(self) -> None:
        """Take all out."""
        self._data.clear()
        self._heap.clear()

    def pop(self, default: Any = None) -> Any:
        """Take out the oldest and give it; `default` when there is none."""
        if not self._data:
            return default
        oldest = heappop(self._heap)
        while not self._is_current(oldest):
            oldest = heappop(self._heap)
        item = oldest[2]
        del self._data[item]
        return item

    def purge(self, now: Any = None) -> None:
        """Take out what is too much or too old at `now` (a time, or a function that gives it)."""
        now = now() if callable(now) else _clock.monotonic() if now is None else now
        while self.maxlen and len(self._data) > self.maxlen:
            self.pop()
        while self.expires and len(self._data) > self.minlen:
            entry = self._heap[0]
            if not self._is_current(entry):
                heappop(self._heap)
            elif entry[0] + self.expires > now:
                break
            else:
                self.pop()

    def as_dict(self) -> dict[Any, float]:
        """Items and their times, for `update`."""
        return {item: inserted for inserted, _, item in self._data.values()}

    def __iter__(self) -> Iterator[Any]:
        return (entry[2] for entry in sorted(self._data.values()))

    def __len__(self) -> int:
        return len(self._data)

    def __contains__(self, key: Any) -> bool:
        return key in self._data

    def __bool__(self) -> bool:
        return bool(self._data)

    def __eq__(self, other: object) -> bool:
        return self.as_dict() == other.as_dict() if isinstance(other, LimitedSet) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        limits = f"maxlen={self.maxlen}, expires={self.expires}, minlen={self.minlen}"
        return f"<{type(self).__name__}({len(self)}): {limits}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.maxlen, self.expires, self.as_dict(), self.minlen)

    def _is_current(self, entry: tuple[float, int, Any]) -> bool:
        return self._data.get(entry[2]) is entry

    def _refresh_heap(self) -> None:
        self._heap[:] = self._data.values()
        heapify(self._heap)

    @property
    def _heap_overload(self) -> float:
        return len(self._heap) * 100 / max(len(self._data), 1) - 100


MutableSet.register(LimitedSet)


def _inserted(value: Any) -> float:
    moment = value[0] if isinstance(value, (tuple, list)) else value
    if not isinstance(moment, float):
        raise ValueError(f"Expecting float timestamp, got type {type(moment)!r} with value: {moment}")
    return moment


class Evictable:
    """Something that drops what is too much."""

    Empty = Empty
    maxsize: Any

    def evict(self) -> None:
        """Drop until there is room."""
        self._evict(range=range(self._evictcount - self.maxsize) if self._evictcount > self.maxsize else ())

    def _evict(self, limit: int = 100, range: Any = None) -> None:
        rounds = _rounds(limit) if range is None else range
        for _ in rounds:
            if self._evictcount <= self.maxsize:
                break
            try:
                self._pop_to_evict()
            except IndexError:
                break

    @property
    def _evictcount(self) -> int:
        raise NotImplementedError

    def _pop_to_evict(self) -> Any:
        raise NotImplementedError


def _rounds(limit: int) -> range:
    return range(limit)


_Deque = deque[Any]


class Messagebuffer(Evictable):
    """A queue that drops its oldest beyond `maxsize`. Iterating takes out."""

    def __init__(
        self, maxsize: int | None, iterable: Iterable[Any] | None = None, deque: Any = deque
    ) -> None:
        self.maxsize = maxsize
        self.data: _Deque = deque(iterable or [])

    def put(self, item: Any) -> None:
        """Add one."""
        self.data.append(item)
        if self.maxsize:
            self._evict()

    def extend(self, it: Iterable[Any]) -> None:
        """Add several; at most 100 are dropped for it."""
        self.data.extend(it)
        if self.maxsize:
            self._evict()

    def take(self, *default: Any) -> Any:
        """Take the oldest. Raises `Empty` when there is none and no default."""
        try:
            return self.data.popleft()
        except IndexError:
            if default:
                return default[0]
            raise self.Empty from None

    def _pop_to_evict(self) -> Any:
        return self.take()

    def __iter__(self) -> Iterator[Any]:
        while self.data:
            yield self.data.popleft()

    def __len__(self) -> int:
        return len(self.data)

    def __contains__(self, item: Any) -> bool:
        return item in self.data

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self.data)

    def __getitem__(self, index: Any) -> Any:
        return self.data[index]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)}/{self.maxsize}>"

    @property
    def _evictcount(self) -> int:
        return len(self)


Sequence.register(Messagebuffer)


class BufferMap(OrderedDict, Evictable):
    """A queue per key; beyond `maxsize` in all, the keys that were not used for longest lose items."""

    Buffer = Messagebuffer
    #: How many there are in all queues.
    total = 0

    def __init__(self, maxsize: int | None, iterable: Any = None, bufmaxsize: int | None = 1000) -> None:
        super().__init__()
        self.maxsize = maxsize
        self.bufmaxsize = bufmaxsize
        for key, items in dict(iterable or ()).items():
            self._get_or_create_buffer(key).extend(items)
        self.total = sum(map(len, self.values()))
        if self.maxsize:
            self.evict()

    def put(self, key: Any, item: Any) -> None:
        """Add one to the queue of this key."""
        self.extend(key, (item,))
        if key in self:
            self.move_to_end(key)

    def extend(self, key: Any, it: Iterable[Any]) -> None:
        """Add several to the queue of this key."""
        buffer = self._get_or_create_buffer(key)
        before = len(buffer)
        buffer.extend(it)
        self.total += len(buffer) - before
        if self.maxsize:
            self._evict()

    def take(self, key: Any, *default: Any) -> Any:
        """Take the oldest of this key. Raises `Empty` when there is none and no default."""
        try:
            item = self[key].take()
        except (KeyError, self.Empty):
            if default:
                return default[0]
            raise self.Empty from None
        self.total -= 1
        self.move_to_end(key)
        return item

    def _get_or_create_buffer(self, key: Any) -> Any:
        if key not in self:
            self[key] = self._new_buffer()
        return self[key]

    def _new_buffer(self) -> Any:
        return self.Buffer(maxsize=self.bufmaxsize)

    def _LRUpop(self, *default: Any) -> Any:
        return self[self._LRUkey()].take(*default)

    def _pop_to_evict(self) -> None:
        # Up to 100 empty queues are cleared away on the way.
        for _ in range(100):
            key = self._LRUkey()
            buffer = self[key]
            taken = buffer.take(None) if len(buffer) else _NOTHING
            self.total -= taken is not _NOTHING
            if len(buffer):
                self.move_to_end(key)
            else:
                del self[key]
            if taken is not _NOTHING:
                return

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.total}/{self.maxsize}>"

    @property
    def _evictcount(self) -> int:
        return self.total


_NOTHING = object()
