"""Messages that wait in the database: as many as there are places begin in one commit."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from celerylite import Celery
from celerylite._store import Delivery
from celerylite.worker import _taking
from celerylite.worker._pools import ThreadPool
from celerylite.worker._slots import Kind, Slots
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp
from compat_tests.ours.store_fixtures import message

PLACES = 4


@pytest.fixture
def start_behind(make_app: MakeApp) -> Callable[..., Any]:
    """`start_behind(app, task, number)` publishes where nothing runs, and then starts what runs it."""

    def start(app: Celery, task: str, number: int) -> Any:
        sender = make_app(celerylite_runtime=False)
        for each in range(number):
            sender.send_task(task, (each,))
        return app.start_runtime()

    return start


@pytest.fixture
def no_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for work unless something tells of it: a place that was forgotten stays free."""
    monkeypatch.setattr(_taking, "LOOK_AGAIN_S", 1000.0)


def _begun_by(app: Celery, monkeypatch: pytest.MonkeyPatch, *, refused: int = 0) -> list[int]:
    """How many each commit begins that marks messages as started; the first `refused` fail."""
    begun: list[int] = []
    store: Any = app.store
    begin = store.begin

    def noted(deliveries: Sequence[Delivery], **options: Any) -> Any:
        begun.append(len(deliveries))
        if len(begun) <= refused:
            raise RuntimeError("begin was refused by the test")
        return begin(deliveries, **options)

    monkeypatch.setattr(store, "begin", noted)
    return begun


def _start_with_one_thread(app: Celery, sender: Celery, task: str, number: int) -> Any:
    """A runtime that holds so many calls and has begun with them.

    It has no keeper, so that it is known which places are free when.
    """
    runtime: Any = app.start_runtime()
    runtime._keeper.stop()
    runtime._pool.resize(1)
    for each in range(number):
        sender.send_task(task, (each,))
    for delivery in app.store.claim(runtime.owner, None, number).deliveries:
        runtime._slots.hold(Kind.THREAD, delivery)
    runtime._slots.set_backlog(True)
    filled = threading.Event()
    runtime._pool.submit(lambda: filled.wait(DEADLINE_S))
    runtime._fill_all()
    filled.set()
    return runtime


def test_what_waits_begins_together(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    app, number = make_app(worker_concurrency=PLACES), 5 * PLACES

    @app.task(name="backlog.job")
    def job(x: int) -> None:
        journal.note(x)

    begun = _begun_by(app, monkeypatch)
    _start_with_one_thread(app, make_app(celerylite_runtime=False), job.name, number)
    journal.until(number - 1)
    assert journal == list(range(number))
    assert begun == [PLACES] * 5


def test_places_that_were_left_to_the_next_batch_are_filled_though_nothing_waits_any_more(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, journal: Journal
) -> None:
    app, number = make_app(worker_concurrency=PLACES), 2 * PLACES

    @app.task(name="backlog.job")
    def job(x: int) -> None:
        runtime: Any = app._runtime
        if x == PLACES - 1:
            # The places of those before it are left to the batch behind; the thread goes on with one more.
            runtime._slots.set_backlog(False)
        elif x == PLACES:
            runtime._pool.resize(PLACES)
            for other in range(PLACES + 1, number):
                journal.until(other)
        journal.note(x)

    begun = _begun_by(app, monkeypatch)
    _start_with_one_thread(app, make_app(celerylite_runtime=False), job.name, number)
    journal.until(PLACES)
    assert begun == [PLACES, 1, PLACES - 1]


@pytest.mark.parametrize("multiplier", [1, 4])
def test_long_tasks_that_begin_together_run_at_once(
    make_app: MakeApp, start_behind: Callable[..., Any], no_second_look: None, multiplier: int
) -> None:
    app = make_app(worker_concurrency=PLACES, worker_prefetch_multiplier=multiplier)
    barrier = threading.Barrier(PLACES, timeout=DEADLINE_S)

    @app.task(name="backlog.meet")
    def meet(x: int) -> int:
        return barrier.wait()

    start_behind(app, meet.name, 8 * PLACES).drain(DEADLINE_S)
    assert not barrier.broken


def test_short_tasks_do_not_keep_a_place_from_what_is_held(
    make_app: MakeApp, start_behind: Callable[..., Any], journal: Journal
) -> None:
    """One place is taken by a task that stays; the others go on with everything else."""
    app = make_app(worker_concurrency=2)
    last = threading.Event()
    number = 40

    @app.task(name="backlog.job")
    def job(x: int) -> None:
        if x == 0:
            assert last.wait(DEADLINE_S)
        elif x == number - 1:
            last.set()
        journal.note(x)

    start_behind(app, job.name, number).drain(DEADLINE_S)
    assert sorted(journal) == list(range(number))


@pytest.mark.parametrize("multiplier", [1, 4])
def test_what_could_not_begin_together_is_begun_again(
    make_app: MakeApp,
    start_behind: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    no_second_look: None,
    journal: Journal,
    multiplier: int,
) -> None:
    app = make_app(worker_concurrency=PLACES, worker_prefetch_multiplier=multiplier)
    number = 3 * PLACES

    @app.task(name="backlog.job")
    def job(x: int) -> None:
        journal.note(x)

    begun = _begun_by(app, monkeypatch, refused=1)
    runtime = start_behind(app, job.name, number)
    runtime.drain(DEADLINE_S)
    assert begun[0] == PLACES
    assert sorted(journal) == list(range(number))


def test_a_rate_limit_holds_among_those_that_begin_together(
    make_app: MakeApp, start_behind: Callable[..., Any], journal: Journal
) -> None:
    app = make_app(worker_concurrency=PLACES)

    @app.task(name="backlog.limited", rate_limit="1/h")
    def limited(x: int) -> None:
        journal.note(x)

    runtime = start_behind(app, limited.name, 3)
    journal.until(0)
    held = [delivery.message.headers["argsrepr"] for delivery in runtime._slots.held()]
    assert sorted(held) == ["(1,)", "(2,)"]
    assert journal == [0]


def test_places_of_what_did_not_begin_are_offered_to_others(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of calls that found no place under their limit, or that somebody else has taken over."""
    runtime: Any = make_app().start_runtime()
    runtime._keeper.stop()
    asked: list[str] = []
    monkeypatch.setattr(runtime._keeper, "ask", lambda name, after=0.0: asked.append(name))
    monkeypatch.setattr(runtime.store, "begin", lambda deliveries, **options: {deliveries[0].row})
    for row in (1, 2):
        runtime._slots.hold(Kind.THREAD, Delivery(message=message(), row=row, token=""))
    assert [delivery.row for delivery in runtime._next(Kind.THREAD, fill=True)] == [1]
    assert runtime._slots.counts() == (1, 0)
    assert asked == ["fill"]
    runtime._release(Kind.THREAD)


def test_coroutines_of_a_backlog_have_all_places_though_none_has_ended(
    make_app: MakeApp, start_behind: Callable[..., Any], no_second_look: None, journal: Journal
) -> None:
    app = make_app()
    number = 100
    all_there = asyncio.Event()
    there = 0

    @app.task(name="backlog.coroutine")
    async def coroutine(x: int) -> None:
        nonlocal there
        there += 1
        if there == number:
            all_there.set()
        await asyncio.wait_for(all_there.wait(), DEADLINE_S)
        journal.note(x)

    start_behind(app, coroutine.name, number).drain(DEADLINE_S)
    assert sorted(journal) == list(range(number))


# -- the parts -------------------------------------------------------------------------------------------


def _holding(*kinds: Kind) -> Slots:
    slots = Slots({Kind.THREAD: 3, Kind.LOOP: 3}, total=3, room=10)
    for row, kind in enumerate(kinds):
        slots.hold(kind, Delivery(message=message(), row=row, token=""))
    return slots


def _next_rows(slots: Slots, kind: Kind, *, fill: bool) -> list[int]:
    return [delivery.row for delivery in slots.next(kind, lambda delivery: True, fill)]


def test_as_many_as_there_are_places_are_taken_when_they_are_asked_for_or_more_waits() -> None:
    kinds = [Kind.THREAD] * 5
    assert _next_rows(_holding(*kinds), Kind.THREAD, fill=False) == [0]
    assert _next_rows(_holding(*kinds), Kind.THREAD, fill=True) == [0, 1, 2]
    slots = _holding(*kinds)
    slots.set_backlog(True)
    assert _next_rows(slots, Kind.THREAD, fill=False) == [0, 1, 2]


def test_one_kind_does_not_take_all_places_before_another_whose_turn_it_is() -> None:
    slots = _holding(Kind.THREAD, Kind.LOOP, Kind.THREAD)
    assert _next_rows(slots, Kind.THREAD, fill=True) == [0]
    assert slots.waiting_kinds() == [Kind.LOOP, Kind.THREAD]


def test_a_question_that_fails_keeps_back_only_what_it_was_about() -> None:
    slots = _holding(Kind.THREAD, Kind.THREAD, Kind.THREAD)

    def allowed(delivery: Delivery) -> bool:
        if delivery.row == 1:
            raise ValueError("refused by the test")
        return True

    assert [each.row for each in slots.next(Kind.THREAD, allowed, fill=True)] == [0]
    with pytest.raises(ValueError, match="refused by the test"):
        slots.next(Kind.THREAD, allowed, fill=True)
    assert slots.counts() == (1, 2)
    assert _next_rows(slots, Kind.THREAD, fill=True) == [1, 2]


def test_kinds_with_places_of_their_own_do_not_wait_for_each_other() -> None:
    slots = Slots({Kind.THREAD: 3, Kind.LOOP: 3}, total=None, room=10)
    for row, kind in enumerate([Kind.LOOP, Kind.THREAD, Kind.THREAD]):
        slots.hold(kind, Delivery(message=message(), row=row, token=""))
    assert _next_rows(slots, Kind.THREAD, fill=True) == [1, 2]


def test_a_pool_that_is_resized_does_not_count_threads_that_were_given_up() -> None:
    pool = ThreadPool("backlog", 1)
    stuck, go_on, done = (threading.Event() for _ in range(3))

    def stay() -> None:
        stuck.set()
        assert go_on.wait(DEADLINE_S)

    pool.submit(stay)
    assert stuck.wait(DEADLINE_S)
    pool.replace_one()
    pool.resize(1)
    pool.submit(done.set)
    others_go_on = done.wait(DEADLINE_S)
    go_on.set()
    assert pool.stop()
    assert others_go_on


def test_a_job_that_is_submitted_behind_others_comes_after_them_and_once() -> None:
    pool = ThreadPool("backlog", 1)
    order: list[Any] = []
    begun, submitted, done = (threading.Event() for _ in range(3))

    def first() -> None:
        begun.set()
        assert submitted.wait(DEADLINE_S)
        order.append([pool.submit_behind(last), pool.submit_behind(last)])

    def last() -> None:
        order.append(["last", pool.submit_behind(last)])
        done.set()

    pool.submit(first)
    assert begun.wait(DEADLINE_S)
    for number in range(2):
        pool.submit(lambda number=number: order.append(number))  # type: ignore[misc]
    submitted.set()
    assert done.wait(DEADLINE_S)
    assert pool.stop()
    assert order == [[True, True], 0, 1, ["last", False]]
