"""Proxies: what they stand for, and for how long they ask."""

from __future__ import annotations

import asyncio
import pickle
from types import TracebackType
from typing import Any

import pytest

from celerylite.local import PromiseProxy, Proxy, maybe_evaluate, try_import


class Thing:
    """A thing."""

    def __init__(self) -> None:
        self.x = 1

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    async def __aenter__(self) -> str:
        return "inside"

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        return None


def test_a_proxy_is_what_it_stands_for() -> None:
    thing = Thing()
    proxy: Any = Proxy(lambda: thing)
    assert isinstance(proxy, Thing)
    assert proxy == thing
    assert hash(proxy) == hash(thing)
    assert proxy.__doc__ == "A thing."
    assert proxy.__module__ == __name__
    assert proxy.__dict__ == {"x": 1}
    proxy.x = 2
    assert thing.x == 2
    assert proxy(1, self=2) == ((1,), {"self": 2})
    assert repr(proxy) == repr(thing)


def test_a_proxy_asks_each_time_and_a_promise_once() -> None:
    values = iter(range(10))
    each: Any = Proxy(lambda: next(values))
    once: Any = PromiseProxy(lambda: next(values))
    assert (int(each), int(each)) == (0, 1)
    assert (int(once), int(once)) == (2, 2)


def test_a_proxy_works_in_async_with() -> None:
    proxy: Any = Proxy(Thing)

    async def enter() -> str:
        async with proxy as value:
            return str(value)

    assert asyncio.run(enter()) == "inside"


def test_a_proxy_of_nothing_is_false_and_has_a_repr() -> None:
    def nothing() -> None:
        raise RuntimeError("nothing here")

    proxy: Any = Proxy(nothing)
    assert not proxy
    assert repr(proxy) == "<Proxy unbound>"
    assert dir(proxy) == []
    with pytest.raises(RuntimeError, match="nothing here"):
        proxy.x  # noqa: B018 - asking is the point


def test_a_name_of_its_own_wins() -> None:
    proxy: Any = Proxy(Thing, name="current_thing", __doc__="Mine.")
    assert (proxy.__name__, proxy.__doc__) == ("current_thing", "Mine.")
    assert (Proxy.__name__, Proxy.__module__) == ("Proxy", "celerylite.local")


def test_callbacks_of_a_promise_run_when_it_is_made() -> None:
    calls: list[int] = []
    promise: Any = PromiseProxy(Thing)
    promise.__then__(calls.append, 1)
    assert calls == []
    assert not promise.__evaluated__()
    assert maybe_evaluate(promise).x == 1
    promise.__then__(calls.append, 2)
    assert calls == [1, 2]
    assert maybe_evaluate(3) == 3


def test_what_is_pickled_is_the_object_behind() -> None:
    proxy: Any = Proxy(lambda: {"a": 1})
    assert pickle.loads(pickle.dumps(proxy)) == {"a": 1}


def test_a_module_that_is_missing_is_the_default() -> None:
    assert try_import("no_such_module_at_all") is None
    assert try_import("pickle") is pickle
