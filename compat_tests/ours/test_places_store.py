"""Places of limited tasks in the store, on every database: never too many, never one lost."""

from __future__ import annotations

import threading

import pytest

from celerylite import _clock
from celerylite._store import Delivery, Limit, MessageState, Settlement
from celerylite._store.sql import SqlStore
from compat_tests.ours.store_fixtures import (
    Opener,
    alive,
    join,
    opener,
    out,
    store,
    success,
    url,
)

__all__ = ("opener", "store", "url")


def claimed(store: SqlStore, *task_ids: str, owner: str = "me") -> list[Delivery]:
    store.publish([out(task_id) for task_id in task_ids])
    return list(store.claim(owner, None, 100).deliveries)


def begin(store: SqlStore, delivery: Delivery, places: int = 1, key: str = "k") -> bool:
    return bool(store.begin([delivery], limits={delivery.row: Limit(key=key, places=places)}))


def end(store: SqlStore, delivery: Delivery, places: int = 1) -> None:
    store.settle(success(delivery, limit=Limit(key="k", places=places)))


def test_a_message_without_a_place_waits_in_the_database_uncounted(store: SqlStore) -> None:
    first, second = claimed(store, "a", "b")
    assert begin(store, first)
    assert not begin(store, second)
    assert store.unfinished() == {MessageState.RUNNING: 1, MessageState.SCHEDULED: 1}
    # Out of everybody's way: nobody claims it in vain.
    assert store.claim("me", None, 10).deliveries == ()
    end(store, first)
    (again,) = store.claim("me", None, 10).deliveries
    assert (again.message.id, again.deliveries, again.message.due_at) == ("b", 1, None)
    assert begin(store, again)


def test_keys_do_not_wait_for_each_other(store: SqlStore) -> None:
    first, second, third = claimed(store, "a", "b", "c")
    assert begin(store, first, key="x")
    assert begin(store, second, key="y")
    assert not begin(store, third, key="y")


def test_those_who_wait_come_by_priority_and_then_in_their_order(store: SqlStore) -> None:
    store.publish([out("holds")])
    (holds,) = store.claim("me", None, 1).deliveries
    assert begin(store, holds)
    store.publish([out("b"), out("c"), out("first", priority=9)])
    waiting = list(store.claim("me", None, 10).deliveries)
    assert [begin(store, each) for each in reversed(waiting)] == [False, False, False]
    came = []
    for _ in range(3):
        end(store, holds)
        (holds,) = store.claim("me", None, 10).deliveries
        assert begin(store, holds)
        came.append(holds.message.id)
    assert came == ["first", "b", "c"]


def test_a_higher_limit_lets_all_in_that_fit(store: SqlStore) -> None:
    deliveries = claimed(store, *"abcd")
    assert [begin(store, each) for each in deliveries] == [True, False, False, False]
    end(store, deliveries[0], places=3)
    again = store.claim("me", None, 10).deliveries
    assert [begin(store, each, places=3) for each in again] == [True, True, True]


def test_who_waits_and_is_purged_or_revoked_is_passed_over(store: SqlStore) -> None:
    holds, revoked, stays = claimed(store, "holds", "revoked", "stays")
    assert [begin(store, each) for each in (holds, revoked, stays)] == [True, False, False]
    (taken,) = store.claim_scheduled("me", ["revoked"])
    store.settle(Settlement(delivery=taken, limit=Limit(key="k", places=1)))
    end(store, holds)
    assert [each.message.id for each in store.claim("me", None, 10).deliveries] == ["stays"]


@pytest.mark.parametrize("how", ["rescue", "give_back", "requeue", "forgotten"])
def test_a_place_is_free_whatever_became_of_its_message(store: SqlStore, how: str) -> None:
    holds, waits = claimed(store, "holds", "waits")
    assert begin(store, holds)
    assert not begin(store, waits)
    if how == "rescue":
        store.leave("me")
        join(store, "you")
        (lost,) = store.rescue("you", alive)
        assert store.claim("you", None, 10).deliveries == ()
        end(store, lost)
    elif how == "give_back":
        store.give_back([holds])
    elif how == "requeue":
        later = _clock.time() + 1000
        store.settle(Settlement(delivery=holds, requeue_at=later, limit=Limit(key="k", places=1)))
    else:
        store.settle(success(holds))  # By a process that does not know the task.
    # What nobody settled is found by the next look at who is dead.
    store.rescue("me", alive)
    found = {each.message.id: each for each in store.claim("me", None, 10).deliveries}
    assert "waits" in found
    assert begin(store, found["waits"])


@pytest.mark.parametrize("places", [1, 3])
def test_of_many_at_once_no_more_than_the_limit_run_and_all_come(
    store: SqlStore, opener: Opener, places: int
) -> None:
    stores = [store] if store.database.memory else [store, opener(), opener()]
    store.publish([out(str(number)) for number in range(30)])
    mutex, inside, most, ended = threading.Lock(), 0, 0, 0
    done = threading.Event()

    def work(number: int) -> None:
        nonlocal inside, most, ended
        mine = stores[number % len(stores)]
        while not done.is_set():
            for delivery in mine.claim("me", None, 1).deliveries:
                if not begin(mine, delivery, places):
                    continue
                with mutex:
                    inside += 1
                    most = max(most, inside)
                with mutex:
                    inside -= 1
                end(mine, delivery, places)
                with mutex:
                    ended += 1
                    if ended == 30:
                        done.set()

    threads = [threading.Thread(target=work, args=[number]) for number in range(6)]
    for thread in threads:
        thread.start()
    finished = done.wait(15)
    done.set()
    for thread in threads:
        thread.join()
    assert finished, (ended, store.unfinished())
    assert most <= places
