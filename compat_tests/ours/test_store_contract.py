"""What every store promises, on every database: nothing is lost, nothing happens twice."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import datetime

import pytest
from kombu.exceptions import OperationalError

from celerylite import _clock
from celerylite._store import (
    SCHEDULE_TOPIC,
    ChordPart,
    Delivery,
    MessageState,
    Outgoing,
    Overlap,
    PeriodicRow,
    ResultRow,
    RunRow,
    Settlement,
    Ticked,
)
from celerylite._store.sql import SqlStore
from celerylite.exceptions import ClaimLost
from compat_tests.ours.store_fixtures import (
    DEADLINE_S,
    Opener,
    alive,
    join,
    message,
    opener,
    out,
    soon,
    started,
    store,
    success,
    url,
    writing,
)

__all__ = ("opener", "store", "url")


@pytest.fixture
def other(opener: Opener, store: SqlStore) -> SqlStore:
    """The same database as another process sees it."""
    return store if store.database.memory else opener()


# -- publishing and claiming ------------------------------------------------------------------------


def test_a_published_message_is_claimed_as_it_was(store: SqlStore) -> None:
    sent = message(
        "id-1",
        headers={"task": "proj.add", "text": "schön \ud800 \x00", "deep": {"a": [1, None]}},
        body='[["ü"], {}, {}]',
        priority=3,
        expires_at=_clock.time() + 1000.25,
    )
    assert store.publish([Outgoing(message=sent)]) == [None]
    (delivery,) = store.claim("me", None, 10).deliveries
    assert delivery.message == sent
    assert (delivery.deliveries, delivery.redelivered, delivery.running) == (1, False, False)


def test_a_binary_body_stays_binary(store: SqlStore) -> None:
    store.publish(
        [out(body=b"\x80\x00\xff", content_type="application/x-python-serialize", content_encoding="binary")]
    )
    (delivery,) = store.claim("me", None, 10).deliveries
    assert delivery.message.body == b"\x80\x00\xff"


def test_publishing_with_a_claim_hands_the_message_over_at_once(store: SqlStore) -> None:
    (waits, mine) = store.publish([out("a"), out("b", owner="me", running=True)])
    assert waits is None
    assert isinstance(mine, Delivery)
    assert mine.running
    assert [each.message.id for each in store.claim("other", None, 10).deliveries] == ["a"]
    assert store.settle(success(mine)) == []


def test_a_claim_takes_the_highest_priority_then_the_oldest(store: SqlStore) -> None:
    store.publish([out(f"{i}-{priority}", priority=priority) for i, priority in enumerate((0, 9, 0, 5, 9))])
    claimed = store.claim("me", None, 4)
    assert [each.message.id for each in claimed.deliveries] == ["1-9", "4-9", "3-5", "0-0"]
    assert not any(each.running for each in claimed.deliveries)
    assert claimed.more
    assert [each.message.id for each in store.claim("me", None, 4).deliveries] == ["2-0"]
    assert not store.claim("me", None, 4).more


def test_what_a_claim_left_behind_is_claimed_without_a_look(store: SqlStore) -> None:
    store.publish([out(f"t{i}") for i in range(3)])
    statements: list[str] = []
    store.database.on_statement = statements.append
    looks = []
    for expected in (["t0", "t1"], ["t2"], []):
        statements.clear()
        claimed = store.claim("me", None, 2)
        assert [each.message.id for each in claimed.deliveries] == expected
        looks.append(statements[0].startswith("SELECT CASE"))
    assert looks == [True, False, True]


def test_after_a_claim_that_failed_the_next_one_looks_first(store: SqlStore) -> None:
    store.publish([out(f"t{i}") for i in range(3)])
    assert store.claim("me", None, 2).more
    statements: list[str] = []

    def fail(sql: str) -> None:
        statements.append(sql)
        raise ValueError("no")

    for _ in range(2):
        store.database.on_statement = fail
        with pytest.raises(ValueError, match="no"):
            store.claim("me", None, 2)
    store.database.on_statement = None
    assert [sql.startswith("SELECT CASE") for sql in statements] == [False, True]
    assert [each.message.id for each in store.claim("me", None, 2).deliveries] == ["t2"]


def test_a_claim_takes_from_its_queues_only(store: SqlStore) -> None:
    store.publish([out(queue, queue=queue) for queue in ("a", "b", "c", "A")])
    assert {each.message.id for each in store.claim("me", ["a", "c"], 10).deliveries} == {"a", "c"}
    assert {each.message.id for each in store.claim("me", None, 10).deliveries} == {"b", "A"}


def test_a_message_with_a_time_waits_for_it(store: SqlStore) -> None:
    with _clock.use(_clock.ManualClock()) as clock:
        due = clock.time() + 60
        store.publish([out("later", due_at=due, owner="me")])
        claimed = store.claim("me", None, 10)
        assert (claimed.deliveries, claimed.next_due_at) == ((), due)
        assert store.next_due() == due
        assert isinstance(clock, _clock.ManualClock)
        clock.advance(60)
        claimed = store.claim("me", None, 10)
        assert [each.message.id for each in claimed.deliveries] == ["later"]
        assert claimed.next_due_at is None


def test_scheduled_messages_can_be_taken_by_id_before_their_time(store: SqlStore) -> None:
    store.publish([out(name, due_at=_clock.time() + 60) for name in ("a", "b", "c")])
    taken = store.claim_scheduled("me", ["a", "c", "unknown"])
    assert {each.message.id for each in taken} == {"a", "c"}
    assert store.unfinished() == {MessageState.SCHEDULED: 1, MessageState.CLAIMED: 2}


def test_publishing_soon_is_committed_without_the_caller(store: SqlStore) -> None:
    futures = [soon(store.publish_soon, [out(str(i))]) for i in range(50)]
    assert [future.result(DEADLINE_S) for future in futures] == [[None]] * 50
    assert store.queue_lengths() == {"celery": 50}


def test_threads_that_claim_together_share_the_messages_without_overlap(
    store: SqlStore, other: SqlStore
) -> None:
    store.publish([out(str(i)) for i in range(300)])

    def claim_all(number: int) -> list[str]:
        mine: list[str] = []
        source = (store, other)[number % 2]
        while sum(source.unfinished().get(state, 0) for state in (MessageState.READY,)):
            mine += [each.message.id for each in source.claim(f"owner-{number}", None, 7).deliveries]
        return mine

    with ThreadPoolExecutor(4) as pool:
        claimed = [each for mine in pool.map(claim_all, range(4)) for each in mine]
    assert sorted(claimed, key=int) == [str(i) for i in range(300)]


def test_publishers_that_meet_share_a_commit_but_not_a_failure(store: SqlStore) -> None:
    with writing(store, "first") as first:
        good = [soon(store.publish_soon, [out(f"good-{i}")]) for i in range(3)]
        bad = soon(store.settle_later, success(started_elsewhere()))
    assert first.result(DEADLINE_S) == [None]
    assert [each.result(DEADLINE_S) for each in good] == [[None]] * 3
    with pytest.raises(ClaimLost):
        bad.result(DEADLINE_S)
    assert store.queue_lengths() == {"celery": 4}
    assert store.get_result("elsewhere") is None


def test_calls_that_meet_are_inserted_together(store: SqlStore) -> None:
    statements: list[str] = []
    with writing(store, "first") as first:
        calls = [soon(store.publish_soon, [out(str(i))]) for i in range(5)]
        store.database.on_statement = statements.append
    assert first.result(DEADLINE_S) == [None]
    assert [each.result(DEADLINE_S) for each in calls] == [[None]] * 5
    # All but the last one at once: the id of that proves the commit.
    assert sum(each.startswith("INSERT") for each in statements) == 2
    assert [each.message.id for each in store.claim("me", None, 9).deliveries] == ["first", *"01234"]


def test_what_is_settled_later_is_seen_by_whoever_reads_in_this_process(store: SqlStore) -> None:
    deliveries = [started(store, str(i)) for i in range(3)]
    told = [soon(store.settle_later, success(each)) for each in deliveries]
    assert set(store.get_results(["0", "1", "2"])) == {"0", "1", "2"}
    assert [each.result(DEADLINE_S) for each in told] == [[]] * 3
    assert store.unfinished() == {}


def test_what_is_settled_later_is_committed_though_nobody_reads_or_writes(store: SqlStore) -> None:
    assert soon(store.settle_later, success(started(store, "alone"))).result(DEADLINE_S) == []
    assert store.get_result("alone") is not None


def test_what_is_settled_later_goes_with_the_next_commit(opener: Opener) -> None:
    store = opener(window=60.0)
    told = soon(store.settle_later, success(started(store, "first")))
    assert not told.done()
    store.post("topic", "second", until=_clock.time() + 60)
    assert told.result(DEADLINE_S) == []


def test_a_call_does_not_wait_for_what_is_settled_later(opener: Opener) -> None:
    store = opener(window=60.0)
    told = soon(store.settle_later, success(started(store, "first")))
    statements: list[str] = []
    store.database.on_statement = statements.append
    store.publish([out("second", owner="me")])
    assert not [each for each in statements if each.startswith("DELETE")]
    assert not told.done()
    store.flush()
    assert told.result(DEADLINE_S) == []


def test_what_is_urgent_does_not_wait(opener: Opener) -> None:
    store = opener(window=60.0)
    settle = functools.partial(store.settle_later, urgent=True)
    assert soon(settle, success(started(store, "urgent"))).result(DEADLINE_S) == []


def test_much_that_is_settled_later_is_written_together(opener: Opener) -> None:
    store = opener(window=60.0)
    deliveries = [started(store, str(i)) for i in range(32)]
    statements: list[str] = []
    store.database.on_statement = statements.append
    run = RunRow(task_id="t", name="proj.add", state="SUCCESS")
    told = [soon(store.settle_later, success(each, run=run)) for each in deliveries]
    assert [each.result(DEADLINE_S) for each in told] == [[]] * 32
    written = [each.split()[:3] for each in statements if each.startswith(("DELETE", "INSERT"))]
    assert len(written) == 3, written
    assert len(store.get_results(str(i) for i in range(32))) == 32
    assert len(store.runs("t")) == 32
    assert store.unfinished() == {}


def test_one_that_is_not_held_any_more_keeps_nobody_from_settling(opener: Opener) -> None:
    store = opener(window=60.0)
    deliveries = [started(store, str(i)) for i in range(3)]
    store.give_back([deliveries[1]])
    told = [soon(store.settle_later, success(each)) for each in deliveries]
    store.flush()
    assert told[0].result(DEADLINE_S) == told[2].result(DEADLINE_S) == []
    with pytest.raises(ClaimLost):
        told[1].result(DEADLINE_S)
    assert set(store.get_results(["0", "1", "2"])) == {"0", "2"}
    assert store.queue_lengths() == {"celery": 1}


def test_a_success_stays_where_another_outcome_of_the_task_is_settled_with_others(opener: Opener) -> None:
    store = opener(window=60.0)
    deliveries = [started(store, name) for name in ("a", "b")]
    failure = ResultRow(task_id="a", status="FAILURE", result=b"{}")
    soon(store.settle_later, success(deliveries[0]))
    soon(store.settle_later, success(deliveries[1], results=(failure,)))
    assert store.get_results(["a", "b"])["a"].status == "SUCCESS"


def test_parts_of_a_chord_that_settle_together_complete_it_once(opener: Opener) -> None:
    store = opener(window=60.0)

    def settlement(index: int, task_id: str) -> Settlement:
        part = ChordPart(group_id="g", size=3, index=index, task_id=task_id, state="SUCCESS", body="{}")
        return success(
            started(store, task_id),
            chord_parts=(part,),
            on_chord_complete=lambda group_id: out(f"body of {group_id}", owner="me"),
        )

    told = [soon(store.settle_later, settlement(i, f"t{i}")) for i in range(3)]
    store.flush()
    assert [each.result(DEADLINE_S) for each in told[:2]] == [[], []]
    (body,) = told[2].result(DEADLINE_S)
    assert body.message.id == "body of g"
    assert [part.index for part in store.chord_parts("g")] == [0, 1, 2]
    assert store.unfinished() == {MessageState.CLAIMED: 1}


def test_who_waits_is_not_told_an_outcome_that_was_not_stored(store: SqlStore) -> None:
    done_at = _clock.utcnow().replace(tzinfo=None)
    store.save_result(ResultRow(task_id="t", status="SUCCESS", result=b"3", date_done=done_at))
    with store.watch("t") as watch:
        store.save_result(ResultRow(task_id="t", status="FAILURE", result=b"{}", date_done=done_at))
        row = watch.row or store.get_result("t")
    assert row is not None
    assert row.status == "SUCCESS"


def test_closing_commits_what_was_to_be_settled_later(opener: Opener) -> None:
    store = opener(window=60.0)
    told = soon(store.settle_later, success(started(store, "first")))
    store.close()
    assert told.result(DEADLINE_S) == []


def test_closing_waits_for_who_is_writing(opener: Opener) -> None:
    store = opener()
    with ThreadPoolExecutor(1) as pool:
        with writing(store, "first") as first:
            closing = pool.submit(store.close)
            # It would be over long before.
            assert not wait([closing], timeout=0.2).done
        assert first.result(DEADLINE_S) == [None]
        closing.result(DEADLINE_S)
    with pytest.raises(OperationalError, match="the store is closed"):
        store.publish([out("late")])


def test_a_flood_of_what_is_settled_later_waits_for_the_database_and_not_in_memory(opener: Opener) -> None:
    store = opener(window=60.0)
    deliveries = store.publish([out(str(i), owner="me", running=True) for i in range(600)])
    told = [soon(store.settle_later, success(each)) for each in deliveries if isinstance(each, Delivery)]
    assert sum(not each.done() for each in told) <= 256
    store.flush()
    assert all(each.done() for each in told)


def started_elsewhere() -> Delivery:
    return Delivery(row=10**6, token="gone/1", message=message("elsewhere"))


# -- begin, settle, give back -----------------------------------------------------------------------


def test_begin_tells_which_deliveries_are_still_ours(store: SqlStore) -> None:
    store.publish([out("kept"), out("lost")])
    kept, lost = store.claim("me", None, 10).deliveries
    store.give_back([lost])
    rows = [ResultRow(task_id=each.message.id, status="STARTED") for each in (kept, lost)]
    assert store.begin([kept, lost], rows) == {kept.row}
    assert set(store.get_results(["kept", "lost"])) == {"kept"}
    assert store.unfinished() == {MessageState.READY: 1, MessageState.RUNNING: 1}


def everything(delivery: Delivery) -> Settlement:
    """A settlement that writes to every table it can."""
    return success(
        delivery,
        run=RunRow(
            task_id=delivery.message.id, name="proj.add", state="SUCCESS", started_at=1.0, finished_at=2.0
        ),
        publish=(out("next", owner="me"), out("errback")),
        chord_parts=(ChordPart(group_id="g", size=1, index=0, task_id="part", state="SUCCESS", body="{}"),),
        on_chord_complete=lambda group_id: out(f"body-of-{group_id}", owner="me"),
        close_chord="older",
    )


def test_settling_makes_everything_true_at_once(store: SqlStore) -> None:
    delivery = started(store, "t")
    published = store.settle(everything(delivery))
    assert [each and each.message.id for each in published] == ["next", None, "body-of-g"]
    result = store.get_result("t")
    assert result is not None
    assert (result.status, result.result) == ("SUCCESS", b"3")
    assert isinstance(result.date_done, datetime)
    assert [run.state for run in store.runs("t")] == ["SUCCESS"]
    assert store.unfinished() == {MessageState.READY: 1, MessageState.CLAIMED: 2}


def test_a_settlement_that_breaks_between_any_two_statements_leaves_nothing(store: SqlStore) -> None:
    delivery = started(store, "t")
    broken_at = 0
    while True:
        store.database.on_statement = _fail_at(broken_at)
        try:
            store.settle(everything(delivery))
        except RuntimeError:
            store.database.on_statement = None
        else:
            store.database.on_statement = None
            break
        assert store.get_result("t") is None
        assert store.runs("t") == []
        assert store.chord_parts("g") == []
        assert store.unfinished() == {MessageState.RUNNING: 1}
        broken_at += 1
    assert broken_at >= 10, "the settlement did not have the statements that this test is about"
    assert store.unfinished() == {MessageState.READY: 1, MessageState.CLAIMED: 2}


def _fail_at(number: int) -> Callable[[str], None]:
    left = number

    def fail(sql: str) -> None:
        nonlocal left
        if left == 0:
            raise RuntimeError("broken on purpose")
        left -= 1

    return fail


def test_settling_twice_raises_and_writes_nothing(store: SqlStore) -> None:
    delivery = started(store, "t")
    store.settle(success(delivery))
    with pytest.raises(ClaimLost, match="expected its message to be owned by 'me'"):
        store.settle(Settlement(delivery=delivery, publish=(out("twice"),)))
    assert store.unfinished() == {}


def test_a_requeued_message_comes_back_and_counts(store: SqlStore) -> None:
    delivery = started(store, "t")
    store.settle(Settlement(delivery=delivery, requeue_at=0.0))
    (again,) = store.claim("me", None, 10).deliveries
    assert (again.message.id, again.deliveries, again.redelivered) == ("t", 2, True)
    due = _clock.time() + 500
    store.settle(Settlement(delivery=again, requeue_at=due))
    assert store.claim("me", None, 10).next_due_at == due


def test_a_message_given_back_was_never_delivered(store: SqlStore) -> None:
    store.publish([out("t")])
    store.give_back(store.claim("me", None, 10).deliveries)
    (again,) = store.claim("me", None, 10).deliveries
    assert again.deliveries == 1


# -- results ----------------------------------------------------------------------------------------


def test_a_success_is_never_overwritten(store: SqlStore) -> None:
    for status in ("STARTED", "RETRY", "SUCCESS", "FAILURE"):
        store.save_result(ResultRow(task_id="t", status=status, result=status.encode(), retries=3))
    row = store.get_result("t")
    assert row is not None
    assert (row.status, row.result, row.retries) == ("SUCCESS", b"SUCCESS", 3)


def test_results_of_many_tasks_are_read_at_once(store: SqlStore) -> None:
    for i in range(5):
        store.save_result(ResultRow(task_id=str(i), status="SUCCESS"))
    assert set(store.get_results(str(i) for i in range(1200))) == {"0", "1", "2", "3", "4"}
    store.forget("3")
    assert store.get_result("3") is None
    assert store.get_results([]) == {}


def test_a_large_result_and_a_long_name_are_kept(store: SqlStore) -> None:
    store.save_result(ResultRow(task_id="t", status="SUCCESS", result=b"x" * 300_000, name="n" * 300))
    row = store.get_result("t")
    assert row is not None
    assert row.result == b"x" * 300_000
    assert row.name == "n" * 155


def test_groups_are_saved_replaced_and_deleted(store: SqlStore) -> None:
    store.save_group("g", b"1")
    store.save_group("g", b"2")
    row = store.get_group("g")
    assert row is not None
    assert row.result == b"2"
    store.delete_group("g")
    assert store.get_group("g") is None


def test_a_watch_is_told_of_a_commit_in_this_process(store: SqlStore) -> None:
    delivery = started(store, "t")
    with store.watch("t") as watch:
        store.settle(success(delivery))
        assert watch.wait(DEADLINE_S)


@pytest.mark.parametrize("way", ["settle", "settle_later", "give_back", "lost"])
def test_a_watch_knows_whether_this_process_has_the_outcome_to_commit(store: SqlStore, way: str) -> None:
    def is_expected() -> bool:
        with store.watch("t") as watch:
            return watch.expected

    assert not is_expected()
    delivery = started(store, "t")
    assert is_expected()
    if way == "settle":
        store.settle(success(delivery))
    elif way == "settle_later":
        soon(store.settle_later, success(delivery))
    elif way == "give_back":
        store.give_back([delivery])
    else:
        assert store.begin([replace(delivery, token="another's")]) == set()
    assert not is_expected()


def test_an_outcome_is_not_expected_of_a_message_that_waits_for_others(store: SqlStore) -> None:
    store.publish([out("t")])
    with store.watch("t") as watch:
        assert not watch.expected


def test_a_watch_is_told_of_a_commit_elsewhere(store: SqlStore, other: SqlStore) -> None:
    with store.watch("t") as watch:
        other.save_result(ResultRow(task_id="t", status="SUCCESS"))
        while store.get_result("t") is None:
            assert watch.wait(DEADLINE_S)


def test_whoever_waits_for_messages_hears_of_those_published_elsewhere(
    store: SqlStore, other: SqlStore
) -> None:
    heard = threading.Event()
    end = store.on_new_messages(heard.set)
    other.publish([out("t")])
    while not store.claim("me", None, 1).deliveries:
        assert heard.wait(DEADLINE_S)
        heard.clear()
    end()


# -- chords -----------------------------------------------------------------------------------------


def part(task_id: str, size: int, group_id: str = "g", index: int = 0) -> ChordPart:
    return ChordPart(
        group_id=group_id,
        size=size,
        index=index,
        task_id=task_id,
        state="SUCCESS",
        result=b"1",
        body='{"b": 1}',
    )


def test_the_body_goes_out_once_however_many_parts_end_together(store: SqlStore, other: SqlStore) -> None:
    size = 40
    deliveries = [started(store, str(i)) for i in range(size)]

    def settle(i: int) -> None:
        (store, other)[i % 2].settle(
            success(
                deliveries[i],
                chord_parts=(part(str(i), size, index=i),),
                on_chord_complete=lambda group_id: out(f"body-{group_id}"),
            )
        )

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(settle, range(size)))
    assert [each.message.id for each in store.claim("me", None, 10).deliveries] == ["body-g"]
    parts = store.chord_parts("g")
    assert [each.index for each in parts] == list(range(size))
    assert {(each.size, each.body, each.result) for each in parts} == {(size, '{"b": 1}', b"1")}


def ended(store: SqlStore, chord_part: ChordPart) -> list[str]:
    """Settle a call with that part; the bodies that went out."""
    message = started(store, chord_part.task_id)
    before = store.queue_lengths().get("celery", 0)
    store.settle(
        success(
            message, chord_parts=(chord_part,), on_chord_complete=lambda group_id: out(f"body-{group_id}")
        )
    )
    return ["body"] * (store.queue_lengths().get("celery", 0) - before)


def test_a_chord_waits_for_the_part_that_knows_its_size(store: SqlStore) -> None:
    assert ended(store, part("first", 0)) == []
    assert ended(store, part("last", 3)) == []
    assert ended(store, part("slow", 0)) == ["body"]


def test_a_chord_waits_for_members_that_were_added_while_it_ran(store: SqlStore) -> None:
    assert ended(store, replace(part("added", 2), extra=True)) == []
    assert ended(store, part("other", 2)) == []
    assert ended(store, replace(part("adds", 2), added=2)) == []
    assert ended(store, replace(part("added too", 2), extra=True)) == ["body"]


def test_a_part_that_settles_twice_counts_once(store: SqlStore) -> None:
    for _ in range(2):
        store.settle(
            success(started(store), chord_parts=(part("same", 2),), on_chord_complete=lambda _: out("body"))
        )
    assert store.unfinished() == {}
    store.settle(
        success(started(store), chord_parts=(part("second", 2),), on_chord_complete=lambda _: out("body"))
    )
    assert store.queue_lengths() == {"celery": 1}


def test_a_closed_chord_is_not_opened_again(store: SqlStore) -> None:
    settle_part = {"chord_parts": (part("only", 1),), "on_chord_complete": lambda _: out("body", owner="me")}
    (body,) = store.settle(success(started(store), **settle_part))
    assert body is not None
    store.settle(success(body, close_chord="g"))
    assert store.chord_parts("g") == []
    assert store.settle(success(started(store), **settle_part)) == []
    assert store.chord_parts("g") == []


# -- processes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("death", ["left", "lapsed", "gone", "unknown"])
def test_what_a_dead_process_owned_is_rescued(store: SqlStore, opener: Opener, death: str) -> None:
    if death != "unknown":
        join(store, "dead")
    running = started(store, "running", "dead")
    store.publish([out("waiting", owner="dead")])
    assert store.rescue("me", alive) == [] or death == "unknown"
    if death == "left":
        store.leave("dead")
    elif death == "lapsed":
        store.lease_s = -1.0
        assert store.renew("dead")
    rescued = store.rescue("me", (lambda worker: worker.owner == "dead") if death == "gone" else alive)
    if death == "unknown":
        # The first look above has found it.
        assert rescued == []
        assert store.unfinished() == {MessageState.READY: 1, MessageState.RUNNING: 1}
        return
    assert [(each.message.id, each.deliveries, each.running) for each in rescued] == [("running", 1, True)]
    (again,) = store.claim("me", None, 10).deliveries
    assert (again.message.id, again.deliveries) == ("waiting", 1)
    assert not store.renew("dead")
    with pytest.raises(ClaimLost):
        store.settle(success(running))
    assert store.get_result("running") is None
    assert store.settle(success(rescued[0])) == []


def test_two_rescuers_do_not_both_get_a_message(store: SqlStore, other: SqlStore) -> None:
    join(store, "rival")
    join(store, "dead")
    for i in range(20):
        started(store, str(i), "dead")
    store.leave("dead")
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(each.rescue, name, alive) for each, name in ((store, "me"), (other, "rival"))]
        rescued = [delivery.message.id for job in jobs for delivery in job.result(DEADLINE_S)]
    assert sorted(rescued, key=int) == [str(i) for i in range(20)]


def test_workers_lists_who_is_alive(store: SqlStore) -> None:
    join(store, "gone", queues=("a", "b"))
    assert [worker.owner for worker in store.workers()] == ["gone", "me"]
    assert store.workers()[0].queues == ("a", "b")
    store.leave("gone")
    assert [worker.owner for worker in store.workers()] == ["me"]
    assert store.renew("me")
    assert not store.renew("gone")


# -- control, beat, upkeep --------------------------------------------------------------------------


def test_revoked_ids_are_remembered_until_their_time(store: SqlStore, other: SqlStore) -> None:
    with _clock.use(_clock.ManualClock()) as clock:
        store.revoke(["a", "b"], until=clock.time() + 5)
        store.revoke(["b"], until=clock.time() + 50)
        assert other.revoked() == {"a", "b"}
        assert isinstance(clock, _clock.ManualClock)
        clock.advance(10)
        assert other.revoked() == {"b"}
        assert store.prune(None, None) == 1


def test_a_revoke_stores_results_of_what_has_not_begun(store: SqlStore) -> None:
    store.publish([out("waits")])
    started(store, "runs", "me")
    for state in ("STARTED", "RETRY", "FAILURE"):
        store.save_result(ResultRow(task_id=state, status=state))
    ids = ["unknown", "waits", "runs", "STARTED", "RETRY", "FAILURE"]
    rows = [ResultRow(task_id=each, status="REVOKED", result=b"x") for each in ids]
    store.revoke(ids, until=_clock.time() + 5, results=rows)
    assert {each: row.status for each, row in store.get_results(ids).items()} == {
        "unknown": "REVOKED",
        "waits": "REVOKED",
        "STARTED": "STARTED",
        "RETRY": "REVOKED",
        "FAILURE": "FAILURE",
    }


def test_letters_are_read_by_topic_in_order(store: SqlStore, other: SqlStore) -> None:
    heard = threading.Event()
    end = other.on_letters(heard.set)
    until = _clock.time() + 100
    rows = [store.post(topic, str(i), until=until) for i, topic in enumerate(("a", "b", "a"))]
    assert heard.wait(DEADLINE_S)
    end()
    assert [(each.row, each.payload) for each in other.letters(["a", "c"])] == [
        (rows[0], "0"),
        (rows[2], "2"),
    ]


def test_purging_leaves_what_is_owned(store: SqlStore) -> None:
    store.publish(
        [out(queue="a"), out(queue="b"), out(queue="b", due_at=_clock.time() + 50), out(owner="me")]
    )
    assert store.purge([]) == 0
    assert store.purge(["b"]) == 2
    assert store.purge() == 1
    assert store.unfinished() == {MessageState.CLAIMED: 1}


def test_waiting_lists_ready_messages_before_scheduled_ones(store: SqlStore) -> None:
    store.publish([out("later", due_at=_clock.time() + 50), out("low"), out("high", priority=9)])
    assert [each.message.id for each in store.waiting(10)] == ["high", "low", "later"]
    assert [each.state for each in store.waiting(3)][2] is MessageState.SCHEDULED
    assert len(store.waiting(2)) == 2


def test_each_tick_is_published_once(store: SqlStore, other: SqlStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda i: (store, other)[i % 2].tick("e", 60.0, [out()], ran_at=61.0), range(8)))
    assert sorted(won) == [Ticked.ELSEWHERE] * 7 + [Ticked.PUBLISHED]
    assert store.tick("e", 120.0, [out("second")], ran_at=121.0, next_run_at=180.0, app="a")
    assert store.queue_lengths() == {"celery": 2}
    assert store.periodic() == {
        "e": PeriodicRow(
            name="e", last_run_at=121.0, next_run_at=180.0, total_run_count=2, last_task_id="second"
        )
    }


def test_a_tick_is_skipped_while_the_run_before_it_is_outstanding(store: SqlStore) -> None:
    skip = Overlap.SKIP
    assert store.tick("e", 1.0, [out("first")], overlap=skip) is Ticked.PUBLISHED
    assert store.tick("e", 2.0, [out("waits")], overlap=skip) is Ticked.HELD_BACK
    (delivery,) = store.claim("me", None, 10).deliveries
    assert store.begin([delivery]) == {delivery.row}
    assert store.tick("e", 3.0, [out("runs")], overlap=skip) is Ticked.HELD_BACK
    again = replace(delivery.message, due_at=_clock.time() + 1000)
    store.settle(success(delivery, results=(), publish=(Outgoing(message=again),)))
    assert store.tick("e", 4.0, [out("is retried")], overlap=skip) is Ticked.HELD_BACK
    assert store.is_outstanding("first")
    (delivery,) = store.claim_scheduled("me", ["first"])
    store.settle(success(delivery))
    assert not store.is_outstanding("first")
    assert store.tick("e", 5.0, [out("second")], overlap=skip) is Ticked.PUBLISHED
    assert store.tick("e", 5.0, [out("twice")], overlap=skip) is Ticked.ELSEWHERE
    assert [each.message.id for each in store.waiting(10)] == ["second"]
    row = store.periodic()["e"]
    assert (row.total_run_count, row.buffered_at) == (2, None)


def test_one_tick_is_remembered_until_the_run_before_it_has_ended(store: SqlStore, other: SqlStore) -> None:
    buffer = Overlap.BUFFER_ONE
    store.tick("e", 1.0, [out("first")], overlap=buffer)
    for due_at in (2.0, 3.0):
        assert store.tick("e", due_at, [out()], overlap=buffer) is Ticked.HELD_BACK
    assert other.periodic()["e"].buffered_at == 2.0
    assert not other.tick_buffered("e", 2.0, [out()])
    (delivery,) = store.claim("me", None, 10).deliveries
    assert store.begin([delivery]) == {delivery.row}
    store.settle(success(delivery))
    # The one that waits has its turn before those that come after.
    assert store.tick("e", 4.0, [out()], overlap=buffer) is Ticked.HELD_BACK
    assert not other.tick_buffered("e", 3.0, [out()])
    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(lambda i: (store, other)[i % 2].tick_buffered("e", 2.0, [out()]), range(4)))
    assert won.count(True) == 1
    assert sum(store.unfinished().values()) == 1
    row = store.periodic()["e"]
    assert (row.total_run_count, row.buffered_at) == (2, None)


def test_a_tick_whose_message_cannot_be_stored_is_not_taken(store: SqlStore, other: SqlStore) -> None:
    def refuse(sql: str) -> None:
        if sql.startswith("INSERT INTO celerylite_messages"):
            raise RuntimeError("cut short")

    store.database.on_statement = refuse
    with pytest.raises(RuntimeError, match="cut short"):
        store.tick("e", 1.0, [out()])
    store.database.on_statement = None
    assert store.periodic() == {}
    assert other.tick("e", 1.0, [out("again")]) is Ticked.PUBLISHED
    assert [each.message.id for each in store.waiting(10)] == ["again"]


def test_a_run_that_the_caller_knows_of_holds_a_tick_back(store: SqlStore) -> None:
    assert store.tick("e", 1.0, [], overlap=Overlap.SKIP, is_busy=True) is Ticked.HELD_BACK


def test_schedule_entries_are_added_edited_and_deleted(store: SqlStore, other: SqlStore) -> None:
    row = PeriodicRow(name="e", app="a", task="x", last_run_at=1.5, total_run_count=7)
    assert store.add_periodic([row, PeriodicRow(name="f")]) == {"e", "f"}
    assert other.add_periodic([PeriodicRow(name="e", task="y"), PeriodicRow(name="g")]) == {"g"}
    assert store.edit_periodic("e", enabled=False, spec="{}")
    assert store.edit_periodic("e", enabled=False, spec="{}")
    assert other.periodic(["e", "h"]) == {"e": replace(row, enabled=False, spec="{}")}
    assert store.delete_periodic("e")
    assert not store.delete_periodic("e")
    assert not store.edit_periodic("e", enabled=True)
    assert set(store.periodic()) == {"f", "g"}


def test_every_process_is_told_of_an_edited_schedule(store: SqlStore, other: SqlStore) -> None:
    heard = threading.Event()
    end = other.on_letters(heard.set)
    edits: list[Callable[[], object]] = [
        lambda: store.add_periodic([PeriodicRow(name="e", spec="{}")]),
        lambda: store.edit_periodic("e", enabled=False),
        lambda: store.delete_periodic("e"),
    ]
    for number, edit in enumerate(edits, start=1):
        heard.clear()
        edit()
        assert heard.wait(DEADLINE_S)
        assert len(other.letters([SCHEDULE_TOPIC])) == number
    end()
    store.add_periodic([PeriodicRow(name="configured")])
    assert len(other.letters([SCHEDULE_TOPIC])) == len(edits)


def test_a_clock_that_differs_from_that_of_the_server_is_noticed(store: SqlStore) -> None:
    assert abs(store.clock_offset()) < 1
    with _clock.use(_clock.ManualClock(_clock.time() - 90)):
        offset = store.clock_offset()
    on_this_machine = store.database.dialect.single_writer
    assert offset == (0.0 if on_this_machine else pytest.approx(90, abs=1))


def test_pruning_removes_what_is_outdated_in_batches(store: SqlStore) -> None:
    with _clock.use(_clock.ManualClock()) as clock:
        assert isinstance(clock, _clock.ManualClock)
        for i in range(5):
            delivery = started(store, str(i))
            run = RunRow(task_id=str(i), name="n", state="SUCCESS", finished_at=clock.time())
            store.settle(success(delivery, run=run, chord_parts=(part(str(i), 9),)))
        store.settle(success(started(store), results=(), close_chord="g"))
        store.save_group("g", b"")
        store.settle(success(started(store), results=(), chord_parts=(part("slow", 2, "open"),)))
        store.tick("e", 1.0, [])
        clock.advance(200_000)
        store.save_result(ResultRow(task_id="new", status="SUCCESS"))
        before = clock.time() - 10
        counts = []
        while count := store.prune(before, before, 3):
            counts.append(count)
        # 5 results and 1 group, 5 runs and 1 tick, 1 chord; at most 3 of each kind at a time.
        assert sum(counts) == 13
        assert len(counts) == 2
        assert set(store.get_results(["0", "new"])) == {"new"}
        assert store.runs("0") == []
        assert len(store.chord_parts("open")) == 1


def test_a_message_that_cannot_be_read_fails_and_does_not_stop_the_others(store: SqlStore) -> None:
    store.publish([out("bad"), out("good"), out("list")])
    for task_id, headers in (("bad", "{not json"), ("list", "[]")):
        spoil = f"UPDATE celerylite_messages SET headers = '{headers}' WHERE task_id = '{task_id}'"
        store.database.write(lambda tx, sql=spoil: tx.execute_text(sql))  # type: ignore[misc]
    claimed = store.claim("me", None, 10)
    assert [each.message.id for each in claimed.deliveries] == ["good"]
    assert {each.task_id for each in claimed.corrupt} == {"bad", "list"}
    rows = store.get_results(["bad", "list"])
    assert {row.status for row in rows.values()} == {"FAILURE"}
    assert b"could not be read" in (rows["bad"].result or b"")
    assert store.unfinished() == {MessageState.CLAIMED: 1}
