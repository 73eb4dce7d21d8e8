"""Keys of unique calls in the store, on every database: one holder at a time, and none for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from celerylite import _clock
from celerylite._call_keys import UNIQUE
from celerylite._store import Delivery, Duplicate, Outgoing, ResultRow, Settlement
from celerylite._store.sql import SqlStore
from celerylite.exceptions import AlreadyQueued
from compat_tests.ours.store_fixtures import Opener, alive, join, make_opener, make_url, out, success


@pytest.fixture(params=["memory", "sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from make_url(request.param, tmp_path)


@pytest.fixture
def opener(url: str) -> Iterator[Opener]:
    opened: list[SqlStore] = []
    yield make_opener(url, opened)
    for store in opened:
        store.close()


@pytest.fixture
def store(opener: Opener) -> SqlStore:
    store = opener()
    join(store, "me")
    return store


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
