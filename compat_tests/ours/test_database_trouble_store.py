"""The store and a server whose answers get lost: what was committed is known, and nothing is forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from kombu.exceptions import OperationalError

from celerylite._store import MessageState, RunRow, Settlement
from celerylite._store.sql import SqlStore
from compat_tests.ours.proxy_fixtures import Proxy
from compat_tests.ours.store_fixtures import (
    DEADLINE_S,
    Opener,
    join,
    make_opener,
    make_url,
    out,
    started,
    success,
)


#: Dead in the sense of `Store.rescue`: everybody who is not alive by the lease.
def nobody(_: object) -> bool:
    return False


@pytest.fixture(params=["postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.URL]:
    for url in make_url(request.param, tmp_path):
        yield sa.make_url(url)


@pytest.fixture
def proxy(url: sa.URL) -> Iterator[Proxy]:
    assert url.host is not None
    assert url.port is not None
    proxy = Proxy(url.host, url.port)
    yield proxy
    proxy.close()


@pytest.fixture
def opener_of() -> Iterator[Callable[[sa.URL], Opener]]:
    """Makes openers of stores; all stores are closed afterwards."""
    opened: list[SqlStore] = []
    yield lambda url: make_opener(url.render_as_string(hide_password=False), opened)
    for store in opened:
        store.close()


@pytest.fixture
def opener(url: sa.URL, proxy: Proxy, opener_of: Callable[[sa.URL], Opener]) -> Opener:
    return opener_of(url.set(port=proxy.port))


@pytest.fixture
def store(opener: Opener) -> SqlStore:
    store = opener()
    join(store, "me")
    return store


def test_what_was_claimed_is_returned_though_the_answer_was_lost(store: SqlStore, proxy: Proxy) -> None:
    store.publish([out("a"), out("b")])
    proxy.swallow_answer_to(b"COMMIT")
    claimed = store.claim("me", None, 10).deliveries
    assert proxy.swallowed.is_set()
    assert [each.message.id for each in claimed] == ["a", "b"]
    assert store.begin(claimed) == {each.row for each in claimed}
    assert [each.deliveries for each in claimed] == [1, 1]


def test_what_was_rescued_is_returned_though_the_answer_was_lost(store: SqlStore, proxy: Proxy) -> None:
    join(store, "other")
    started(store, "t", "other")
    store.leave("other")
    proxy.swallow_answer_to(b"COMMIT")
    rescued = store.rescue("me", nobody)
    assert proxy.swallowed.is_set()
    assert [each.message.id for each in rescued] == ["t"]
    store.settle(success(rescued[0]))
    assert store.unfinished() == {}


def test_what_follows_a_settled_task_is_returned_though_the_answer_was_lost(
    store: SqlStore, proxy: Proxy
) -> None:
    delivery = started(store, "t")
    proxy.swallow_answer_to(b"COMMIT")
    (following,) = store.settle(success(delivery, publish=(out("next", owner="me", running=True),)))
    assert proxy.swallowed.is_set()
    assert following is not None
    assert store.unfinished() == {MessageState.RUNNING: 1}
    store.settle(success(following))
    assert store.unfinished() == {}


def test_a_settlement_whose_answer_was_lost_in_a_long_outage_counts_when_it_is_tried_again(
    opener: Opener, proxy: Proxy
) -> None:
    store = opener(publish_timeout=0.5)
    join(store, "me")
    settlement = success(started(store, "t"), publish=(out("next", owner="me", running=True),))
    # The server goes away for longer than one call tries.
    proxy.swallow_answer_to(b"COMMIT", then_stop=True)
    with pytest.raises(OperationalError):
        store.settle(settlement)
    proxy.start()
    (following,) = store.settle(settlement)
    assert following is not None
    assert following.message.id == "next"
    assert store.unfinished() == {MessageState.RUNNING: 1}


def test_what_was_claimed_before_a_long_outage_is_found_after_it(opener: Opener, proxy: Proxy) -> None:
    store = opener(publish_timeout=0.5)
    join(store, "me")
    store.publish([out("a"), out("b")])
    proxy.swallow_answer_to(b"COMMIT", then_stop=True)
    with pytest.raises(OperationalError):
        store.claim("me", None, 10)
    assert proxy.swallowed.is_set()
    proxy.start()
    store.publish([out("c")])
    found = [each for _ in range(3) for each in store.claim("me", None, 10).deliveries]
    assert sorted(each.message.id for each in found) == ["a", "b", "c"]
    assert store.begin(found) == {each.row for each in found}


def test_what_was_rescued_before_a_long_outage_is_found_after_it(opener: Opener, proxy: Proxy) -> None:
    store = opener(publish_timeout=0.5)
    join(store, "me")
    join(store, "other")
    started(store, "t", "other")
    store.leave("other")
    proxy.swallow_answer_to(b"COMMIT", then_stop=True)
    with pytest.raises(OperationalError):
        store.rescue("me", nobody)
    assert proxy.swallowed.is_set()
    proxy.start()
    (rescued,) = store.rescue("me", nobody)
    assert store.rescue("me", nobody) == []
    store.settle(success(rescued))
    assert store.unfinished() == {}


def test_a_claim_that_never_arrived_is_made_anew_after_the_outage(opener: Opener, proxy: Proxy) -> None:
    store = opener(publish_timeout=0.5)
    join(store, "me")
    store.publish([out("a")])
    store.database.on_statement = lambda sql: proxy.stop() if sql == "COMMIT" else None
    with pytest.raises(OperationalError):
        store.claim("me", None, 10)
    store.database.on_statement = None
    proxy.start()
    assert [each.message.id for each in store.claim("me", None, 10).deliveries] == ["a"]
    assert store.claim("me", None, 10).deliveries == ()


@pytest.mark.parametrize("history", ["result", "run", "running"])
def test_a_message_that_others_finished_before_its_lost_answer_is_not_published_again(
    url: sa.URL, store: SqlStore, proxy: Proxy, history: str, opener_of: Callable[[sa.URL], Opener]
) -> None:
    other = opener_of(url)()
    join(other, "other")
    with ThreadPoolExecutor(1) as pool:
        proxy.swallow_answer_to(b"COMMIT", then_stop=True)
        publishing = pool.submit(store.publish, [out("t")])
        assert proxy.swallowed.wait(DEADLINE_S)
        # The server has the message, and another process is quick.
        (delivery,) = other.claim("other", None, 10).deliveries
        if history == "result":
            other.settle(success(delivery))
        elif history == "run":
            run = RunRow(
                task_id="t", name="proj.add", queue="celery", worker="w", retries=0,
                started_at=time.time(), finished_at=time.time(), state="SUCCESS", error=None,
            )  # fmt: skip
            other.settle(Settlement(delivery=delivery, run=run))
        proxy.start()
        assert publishing.result(DEADLINE_S) == [None]
    left = {MessageState.CLAIMED: 1} if history == "running" else {}
    assert other.unfinished() == left
