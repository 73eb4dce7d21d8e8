"""Keys of unique calls in the store, on every database: one holder at a time, and none for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest
import sqlalchemy as sa
from kombu.exceptions import OperationalError

from celerylite import _clock
from celerylite._call_keys import UNIQUE
from celerylite._store import Delivery, Duplicate, Outgoing, ResultRow, Settlement
from celerylite._store.sql import SqlStore
from celerylite.exceptions import AlreadyQueued
from compat_tests.ours.store_fixtures import (
    DEADLINE_S,
    Opener,
    alive,
    join,
    opener,
    out,
    soon,
    store,
    success,
    url,
)

__all__ = ("opener", "store", "url")


def keyed(
    task_id: str,
    key: str = "k",
    *,
    owner: str | None = None,
    lasts: float | None = None,
    raises: bool = False,
) -> Outgoing:
    header: dict[str, Any] = {"key": key, "id": task_id, "raise": raises}
    if lasts is not None:
        header["for"] = lasts
    headers = {"task": "proj.add", UNIQUE: header}
    return out(task_id, headers=headers, owner=owner, running=owner is not None)


def holder(store: SqlStore, task_id: str = "asks", key: str = "k") -> str | None:
    """Who holds the key; nobody: it is taken for `task_id`."""
    (published,) = store.publish([keyed(task_id, key)])
    return published.holder if isinstance(published, Duplicate) else None


def begun(store: SqlStore, task_id: str = "first", key: str = "k", lasts: float | None = None) -> Delivery:
    (delivery,) = store.publish([keyed(task_id, key, owner="me", lasts=lasts)])
    assert isinstance(delivery, Delivery)
    return delivery


def test_a_key_is_held_until_its_task_is_settled(store: SqlStore) -> None:
    delivery = begun(store)
    assert holder(store) == "first"
    assert sum(store.unfinished().values()) == 1
    store.settle(success(delivery))
    assert holder(store, "second") is None
    assert holder(store, "third") == "second"


def test_a_retry_keeps_the_key_of_its_task(store: SqlStore) -> None:
    delivery = begun(store)
    (again,) = store.settle(Settlement(delivery=delivery, publish=(keyed("first", owner="me"),)))
    assert isinstance(again, Delivery)
    assert holder(store) == "first"
    store.settle(Settlement(delivery=again, requeue_at=_clock.time()))
    assert holder(store) == "first"
    (third,) = store.claim("me", None, 1).deliveries
    store.settle(success(third))
    assert holder(store) is None


def test_a_key_with_a_time_is_held_for_that_long_and_no_longer(store: SqlStore) -> None:
    store.settle(success(begun(store, lasts=1000.0)))
    assert holder(store) == "first"
    begun(store, "brief", key="other", lasts=1e-9)
    assert holder(store, key="other") is None


@pytest.mark.parametrize("how", ["purge", "rescue", "expire"])
def test_whatever_takes_a_message_away_frees_its_key(store: SqlStore, how: str) -> None:
    if how == "purge":
        assert holder(store, "first") is None
        assert store.purge() == 1
    elif how == "rescue":
        begun(store)
        store.leave("me")
        (lost,) = store.rescue("you", alive)
        assert holder(store) == "first"
        store.settle(success(lost))
    else:
        assert holder(store, "first") is None
        (turned_away,) = store.claim("me", None, 1).deliveries
        store.begin([turned_away])
        store.settle(Settlement(delivery=turned_away))
    assert holder(store) is None


@pytest.mark.parametrize("state", ["ready", "scheduled", "claimed", "running"])
def test_a_revoke_frees_the_key_of_a_call_that_has_not_begun(store: SqlStore, state: str) -> None:
    header = {"task": "proj.add", UNIQUE: {"key": "k", "id": "first"}}
    due = _clock.time() + 1000 if state == "scheduled" else None
    owner = "me" if state in ("claimed", "running") else None
    store.publish([out("first", headers=header, due_at=due, owner=owner, running=state == "running")])
    revoked = ResultRow(task_id="first", status="REVOKED")
    store.revoke(["first"], until=_clock.time() - 1)
    assert holder(store) == "first"
    store.revoke(["first"], until=_clock.time() + 1000, results=[revoked])
    assert holder(store, "second") == ("first" if state == "running" else None)


def test_a_revoke_leaves_a_key_that_holds_for_a_time(store: SqlStore) -> None:
    store.publish([keyed("first", lasts=1000.0)])
    store.revoke(["first"], until=_clock.time() + 1000)
    assert holder(store) == "first"


def test_what_was_revoked_does_not_free_the_key_of_another_when_it_is_turned_away(store: SqlStore) -> None:
    store.publish([keyed("first")])
    store.revoke(["first"], until=_clock.time() + 1000)
    assert holder(store, "second") is None
    (first,) = store.claim("me", None, 1).deliveries
    assert first.message.id == "first"
    store.settle(success(first))
    assert holder(store, "third") == "second"


def test_a_message_that_cannot_be_read_frees_its_key(store: SqlStore) -> None:
    assert holder(store, "first") is None
    store.database.write(lambda tx: tx.execute_text("UPDATE celerylite_messages SET properties = 'x'"))
    assert len(store.claim("me", None, 1).corrupt) == 1
    assert holder(store) is None


def test_keys_that_are_free_are_cleaned_up(store: SqlStore) -> None:
    held = begun(store, "held")
    store.publish([keyed("gone", "a")])
    store.purge()
    store.settle(success(begun(store, "brief", key="b", lasts=1e-9)))
    assert _keys(store) == {"k", "a", "b"}
    while store.prune(None, None):
        pass
    assert _keys(store) == {"k"}
    store.settle(success(held))
    assert _keys(store) == set()


def test_a_key_that_was_found_free_and_taken_since_is_not_cleaned_up(store: SqlStore) -> None:
    # PostgreSQL finds it when it is replaced between the snapshot of the look and its lock on the row.
    begun(store, "again")
    begun(store, "for long", key="a", lasts=1000.0)
    store.publish([keyed("gone", "b")])
    store.purge()
    _, delete = store._pruning.keys
    ids = ["k", "a", "b"]
    assert store.database.write(lambda tx: tx.run(delete, ids=ids, before=_clock.time())) == 1
    assert _keys(store) == {"k", "a"}


def _keys(store: SqlStore) -> set[str]:
    def read(tx: Any) -> set[str]:
        tx.execute_text("SELECT unique_key FROM celerylite_unique")
        return {row[0] for row in tx.cursor.fetchall()}

    return store.database.read(read)


def test_a_duplicate_that_wants_an_error_leaves_nothing_of_its_transaction(store: SqlStore) -> None:
    begun(store)
    with pytest.raises(AlreadyQueued, match=r"'k'.*first") as caught:
        store.publish([out("beside"), keyed("asks", raises=True)])
    assert (caught.value.key, caught.value.task_id) == ("k", "first")
    assert store.queue_lengths() == {}


def test_a_duplicate_that_follows_a_task_is_published_with_a_mark(store: SqlStore) -> None:
    begun(store)
    (other,) = store.publish([out("other", owner="me", running=True)])
    assert isinstance(other, Delivery)
    (follows,) = store.settle(success(other, publish=(keyed("follows", owner="me"),)))
    assert isinstance(follows, Delivery)
    assert follows.message.headers[UNIQUE]["holder"] == "first"
    store.settle(success(follows))
    assert holder(store) == "first"


def test_of_many_threads_one_gets_the_key(store: SqlStore, opener: Opener) -> None:
    stores = [store] if store.database.memory else [store, opener(), opener()]
    start = threading.Barrier(12)
    accepted: list[int] = []

    def publish(number: int) -> None:
        start.wait()
        mine = stores[number % len(stores)]
        accepted.extend(turn for turn in range(5) if holder(mine, f"{number}.{turn}") is None)

    threads = [threading.Thread(target=publish, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(accepted) == 1
    assert sum(store.unfinished().values()) == 1


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_key_in_the_callers_transaction_shares_its_fate(store: SqlStore, ending: str) -> None:
    if store.database.memory:
        pytest.skip("no other connection sees it")
    engine = sa.create_engine(store.database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as mine:
        assert store.publish_in(mine, [keyed("first")]) == []
        (again,) = store.publish_in(mine, [keyed("second")])
        assert again.holder == "first"
        getattr(mine, ending)()
    assert holder(store) == ("first" if ending == "commit" else None)
    engine.dispose()


def test_a_callers_transaction_sees_keys_that_came_and_went_since_it_began(store: SqlStore) -> None:
    if store.database.dialect.single_writer:
        pytest.skip("a transaction that has read cannot write after others have")
    engine = sa.create_engine(store.database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as mine:
        mine.execute(sa.text("SELECT count(*) FROM celerylite_messages")).all()
        delivery = begun(store)
        (refused,) = store.publish_in(mine, [keyed("refused")])
        assert refused.holder == "first"
        mine.rollback()
        mine.execute(sa.text("SELECT count(*) FROM celerylite_messages")).all()
        store.settle(success(delivery))
        assert store.publish_in(mine, [keyed("second")]) == []
        mine.commit()
    assert holder(store) == "second"
    engine.dispose()


def test_a_database_of_the_version_before_gets_the_tables(opener: Opener) -> None:
    store = opener()
    store.publish([out("kept")])

    def go_back(tx: Any) -> None:
        for table in ("unique", "places", "parked"):
            tx.execute_text(f"DROP TABLE celerylite_{table}")
        tx.execute_text("UPDATE celerylite_meta SET value = '3' WHERE name = 'schema_version'")

    store.database.write(go_back)
    migrated = opener() if not store.database.memory else store
    if store.database.memory:
        store.database.prepare(store.tables)
    assert [each.message.id for each in migrated.waiting(10)] == ["kept"]
    assert holder(migrated, "new") is None
    assert holder(migrated) == "new"


# -- keys in transactions that stay open ---------------------------------------------------------------


@pytest.fixture
def holds(store: SqlStore) -> Iterator[sa.Connection]:
    """Somebody's transaction that has taken the key "k" and stays open."""
    if store.database.dialect.single_writer:
        pytest.skip("an open transaction has locked the whole database")
    engine = sa.create_engine(store.database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as connection:
        assert store.publish_in(connection, [keyed("theirs")]) == []
        yield connection
    engine.dispose()


def test_an_open_transaction_with_a_key_stops_only_who_wants_that_key(
    opener: Opener, holds: sa.Connection
) -> None:
    store = opener(publish_timeout=15.0)
    join(store, "me")
    wants = [threading.Thread(target=holder, args=[store, f"wants-{n}"]) for n in range(8)]
    settled = begun(store, "settled", key="other")
    for thread in wants:
        thread.start()
    slowest = 0.0
    for number in range(40):
        before = time.monotonic()
        store.publish([out(f"free-{number}")])
        assert store.renew("me")
        slowest = max(slowest, time.monotonic() - before)
    store.settle(success(settled))
    assert all(thread.is_alive() for thread in wants)
    assert slowest < 4.0
    holds.commit()
    for thread in wants:
        thread.join()
    assert holder(store) == "theirs"


@pytest.mark.parametrize("ending", ["commit", "rollback"])
@pytest.mark.parametrize("how", ["publish", "publish_soon", "follow"])
def test_who_waits_for_a_key_gets_it_or_its_holder_when_the_transaction_ends(
    store: SqlStore, holds: sa.Connection, ending: str, how: str
) -> None:
    first = begun(store, "first", key="other")
    waits: Future[Any]
    if how == "publish_soon":
        waits = soon(store.publish_soon, [keyed("waits")])
    else:
        waits = Future()

        def ask() -> None:
            if how == "publish":
                waits.set_result(store.publish([keyed("waits")]))
            else:
                waits.set_result(store.settle(success(first, publish=(keyed("waits", owner="me"),))))

        threading.Thread(target=ask).start()
    with pytest.raises(TimeoutError):
        waits.result(timeout=0.3)
    getattr(holds, ending)()
    (published,) = waits.result(timeout=DEADLINE_S)
    if how == "follow":
        assert published.message.headers[UNIQUE].get("holder") == ("theirs" if ending == "commit" else None)
    elif ending == "commit":
        assert published.holder == "theirs"
    else:
        assert published is None
    assert holder(store) == ("theirs" if ending == "commit" else "waits")


def test_a_key_that_stays_locked_is_an_error_that_names_it(opener: Opener, holds: sa.Connection) -> None:
    impatient = opener(publish_timeout=1.0)
    with pytest.raises(OperationalError, match=r"unique key 'k'.*got an open transaction that holds it"):
        impatient.publish([keyed("waits")])
    failed = soon(impatient.publish_soon, [keyed("waits")])
    with pytest.raises(OperationalError, match="unique key 'k'"):
        failed.result(timeout=DEADLINE_S)
    impatient.publish([out("free")])


def test_an_open_transaction_that_met_a_key_does_not_stop_its_task_from_ending(store: SqlStore) -> None:
    if store.database.dialect.single_writer:
        pytest.skip("an open transaction has locked the whole database")
    delivery = begun(store)
    engine = sa.create_engine(store.database.url, poolclass=sa.pool.NullPool)
    with engine.connect() as mine:
        (refused,) = store.publish_in(mine, [keyed("second")])
        assert refused.holder == "first"
        before = time.monotonic()
        store.settle(success(delivery))
        assert time.monotonic() - before < 3.5
    assert holder(store) is None
    engine.dispose()


def test_keys_are_taken_in_one_order_whatever_that_of_the_messages(store: SqlStore, opener: Opener) -> None:
    stores = [store] if store.database.memory else [store, opener()]
    keys = [f"k{number}" for number in range(20)]
    start = threading.Barrier(4)
    accepted: list[str] = []

    def publish(number: int) -> None:
        start.wait()
        ordered = keys if number % 2 else keys[::-1]
        outgoing = [keyed(f"{number}-{key}", key) for key in ordered]
        published = stores[number % len(stores)].publish(outgoing)
        accepted.extend(
            each.message.id for each, came in zip(outgoing, published, strict=True) if came is None
        )

    threads = [threading.Thread(target=publish, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(each.partition("-")[2] for each in accepted) == sorted(keys)
    assert store.queue_lengths() == {"celery": 20}


def test_of_two_calls_with_one_key_that_are_sent_together_the_first_is_sent(store: SqlStore) -> None:
    published = store.publish([keyed("first"), keyed("second"), keyed("other", "a")])
    assert published == [None, Duplicate(task_id="second", holder="first"), None]
    assert [each.message.id for each in store.waiting(10)] == ["first", "other"]
