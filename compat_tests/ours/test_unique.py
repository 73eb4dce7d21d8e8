"""Unique calls: a call that waits or runs already is not sent again, however it is made."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from celerylite import Celery, chain, chord, group, signals
from celerylite.exceptions import AlreadyQueued, ChordError, TaskRevokedError
from celerylite.result import AsyncResult
from compat_tests.ours.runtime_fixtures import DEADLINE_S, PROGRAM_DEADLINE_S, Gate, MakeApp, rows, states_of


def waiting_task(app: Celery, gate: Gate, **options: Any) -> Any:
    @app.task(name="wait", **options)
    def wait(x: int = 0, y: int = 0) -> int:
        gate.wait()
        return x + y

    return wait


# -- which calls are the same --------------------------------------------------------------------------


def test_a_duplicate_gives_the_result_of_the_call_that_is_there(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True)
    first = wait.delay(1, y=2)
    same = [wait.delay(1, 2), wait.apply_async(kwargs={"x": 1, "y": 2}), wait.s(1, 2).delay()]
    other = wait.delay(1, 3)
    assert [each.id for each in same] == [first.id] * 3
    gate.until_arrived(2)
    gate.open()
    assert [first.get(timeout=DEADLINE_S), same[0].get(timeout=DEADLINE_S)] == [3, 3]
    assert other.get(timeout=DEADLINE_S) == 4
    assert gate.arrived == 2
    assert wait.delay(1, 2).id != first.id


def test_some_arguments_may_count_alone(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True, unique_on=["x"])
    assert wait.delay(1, 2).id == wait.delay(1, 3).id != wait.delay(2, 2).id


def test_a_function_may_make_the_key(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=lambda args, kwargs: args[0] % 2)
    assert wait.delay(1).id == wait.delay(3).id != wait.delay(2).id


def test_a_call_may_bring_its_key_or_do_without_the_tasks(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate)
    first = wait.apply_async((1,), unique_key="k")
    assert file_app.send_task("unknown", unique_key="k").id == first.id
    assert wait.apply_async((1,), unique_key="k" * 500).id == wait.apply_async((2,), unique_key="k" * 500).id
    assert wait.delay(1).id != first.id
    wait.unique = True
    assert wait.apply_async((1,), unique_key=None).id != wait.delay(1).id == wait.delay(1).id


def test_a_key_may_hold_longer_than_its_task(file_app: Celery) -> None:
    @file_app.task(unique=True, unique_for=1000)
    def hourly() -> None: ...

    first = hourly.delay()
    first.get(timeout=DEADLINE_S)
    assert hourly.delay().id == first.id
    assert hourly.apply_async(unique_key="for a moment", unique_for=1e-6).id != first.id
    assert (
        hourly.apply_async(unique_key="for a moment", unique_for=1e-6).id
        != hourly.apply_async(unique_key="for a moment", unique_for=1e-6).id
    )


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"unique_key": 5}, TypeError, "unique_key: expected a text such as 'invoice-17', got 5"),
        ({"unique_for": 5}, TypeError, "unique_key: expected a text such as 'invoice-17', got None; or"),
        ({"unique_key": "k", "unique_for": 0}, ValueError, "expected a number of seconds above 0, got 0"),
    ],
)
def test_what_is_no_key_is_refused_at_the_call(
    file_app: Celery, gate: Gate, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    wait = waiting_task(file_app, gate)
    with pytest.raises(error, match=re.escape(text)):
        wait.apply_async((1,), **options)


def test_arguments_that_make_no_key_are_refused_at_the_call(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True, serializer="pickle")
    with pytest.raises(TypeError, match=r"expected arguments that JSON can hold, got .*give a function"):
        wait.delay(object())
    wait.unique_on = ["z"]
    with pytest.raises(TypeError, match=re.escape("expected names of its arguments (x, y), got 'z'")):
        wait.delay(1)


# -- what a duplicate gets -----------------------------------------------------------------------------


def test_a_duplicate_may_raise(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True, raise_on_duplicate=True)
    first = wait.delay(1)
    with pytest.raises(AlreadyQueued, match=re.escape(f"task {first.id} holds it")) as caught:
        wait.delay(1)
    assert caught.value.task_id == first.id
    assert caught.value.key == 'wait({"x":1,"y":0})'
    wait.raise_on_duplicate = False
    with pytest.raises(AlreadyQueued):
        wait.apply_async((1,), raise_on_duplicate=True)


def test_a_duplicate_gives_back_its_place_and_sends_one_signal(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=2)
    wait = waiting_task(app, gate, unique=True)
    sent: list[str] = []
    receivers: list[Callable[..., None]] = [
        lambda **_: sent.append("before"),
        lambda **_: sent.append("after"),
    ]
    signals.before_task_publish.connect(receivers[0])
    signals.after_task_publish.connect(receivers[1])
    wait.delay(1)
    for _ in range(20):
        wait.delay(1)
    assert sent == ["before", "after"] + ["before"] * 20
    wait.delay(2)
    gate.until_arrived(2)


def test_a_coroutine_may_send_unique_calls(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True)

    async def send() -> list[Any]:
        return [await wait.aapply_async((1,)) for _ in range(3)]

    results = asyncio.run(send())
    assert len({each.id for each in results}) == 1
    with pytest.raises(AlreadyQueued):
        asyncio.run(wait.aapply_async((1,), raise_on_duplicate=True))


def test_a_group_has_the_results_of_the_calls_that_are_there(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True)
    first = wait.delay(1)
    result = group(wait.s(1), wait.s(2), wait.s(2)).apply_async()
    generated = group(wait.s(x) for x in (1, 2)).apply_async()
    assert result[0].id == generated[0].id == first.id
    assert result[1].id == result[2].id == generated[1].id
    gate.open()
    assert result.get(timeout=DEADLINE_S) == [1, 2, 2]


def test_a_call_that_others_wait_for_is_refused_as_a_duplicate(
    file_app: Celery, gate: Gate, database: Path
) -> None:
    wait = waiting_task(file_app, gate, unique=True)
    wait.delay(1)
    for call in (
        chain(wait.s(1), wait.si(5)),
        chord([wait.s(3), wait.s(1)], wait.si(6)),
        wait.s(1).on_error(wait.si(7)) | wait.si(5),
    ):
        with pytest.raises(AlreadyQueued):
            call.apply_async()
    with pytest.raises(AlreadyQueued):
        wait.apply_async((1,), link=wait.si(8))
    # Nothing of them was sent.
    assert rows(database, "select count(*) from celerylite_messages") == [(1,)]


def test_a_step_that_comes_to_be_a_duplicate_ends_revoked(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True)

    @file_app.task
    def one() -> int:
        return 1

    first = wait.delay(9)
    last = chain(one.s(), wait.si(9)).apply_async()
    with pytest.raises(TaskRevokedError, match=f"duplicate of {first.id}"):
        last.get(timeout=DEADLINE_S)
    body = chord([chain(one.s(), wait.si(9)), one.s()], one.si()).apply_async()
    with pytest.raises(ChordError, match="duplicate of"):
        body.get(timeout=DEADLINE_S, follow_parents=False)
    assert file_app.AsyncResult(first.id).state == "PENDING"


# -- how a key is kept and freed -----------------------------------------------------------------------


def test_a_task_that_retries_keeps_its_key(file_app: Celery) -> None:
    found: list[str] = []

    @file_app.task(bind=True, unique=True, max_retries=2)
    def flaky(self: Any, x: int = 0) -> str:
        found.append(flaky.delay(self.request.headers["celerylite_unique"] and 0).id)
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return "done"

    first = flaky.delay()
    assert first.get(timeout=DEADLINE_S) == "done"
    assert found == [first.id] * 3
    assert flaky.delay().id != first.id


@pytest.mark.parametrize("how", ["failure", "revoke", "expire"])
def test_a_task_that_ends_otherwise_frees_its_key(file_app: Celery, how: str) -> None:
    @file_app.task(unique=True)
    def end() -> None:
        raise KeyError("x")

    options: dict[str, Any] = {"failure": {}, "revoke": {"countdown": 1000}, "expire": {"expires": -1}}[how]
    first = end.apply_async(**options)
    if how == "revoke":
        assert end.delay().id == first.id
        file_app.start_runtime()
        first.revoke()
    with pytest.raises((KeyError, TaskRevokedError)):
        first.get(timeout=DEADLINE_S)
    assert end.apply_async(countdown=1000).id != first.id


@pytest.mark.parametrize("options", [{}, {"countdown": 3600}])
def test_a_call_that_was_revoked_while_nobody_ran_is_no_holder(
    make_app: MakeApp, gate: Gate, options: dict[str, Any]
) -> None:
    wait = waiting_task(make_app(celerylite_runtime="off"), gate, unique=True)
    first = wait.apply_async((1,), **options)
    first.revoke()
    assert first.state == "REVOKED"
    second = wait.apply_async((1,), **options)
    assert second.id != first.id
    assert wait.delay(1).id == second.id


def test_a_call_that_is_sent_again_takes_its_key_again(file_app: Celery, gate: Gate) -> None:
    gate.open()
    wait = waiting_task(file_app, gate, unique=True)
    first = wait.delay(1)
    first.get(timeout=DEADLINE_S)
    other = wait.apply_async((1,), countdown=1000)
    with pytest.raises(AlreadyQueued, match=other.id):
        file_app.control.retry_task(first.id)
    assert file_app.AsyncResult(first.id).state == "SUCCESS"
    other.revoke()
    with pytest.raises(TaskRevokedError):
        other.get(timeout=DEADLINE_S)
    assert file_app.control.retry_task(first.id).get(timeout=DEADLINE_S) == 1


def test_a_call_in_a_transaction_takes_its_key_there(file_app: Celery, database: Path, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True)
    engine = sa.create_engine(f"sqlite:///{database}", poolclass=sa.pool.NullPool)
    file_app.store.queue_lengths()
    with engine.connect() as mine:
        lost = wait.apply_async((1,), connection=mine)
        assert wait.apply_async((1,), connection=mine).id == lost.id
        with pytest.raises(AlreadyQueued):
            wait.apply_async((1,), connection=mine, raise_on_duplicate=True)
        mine.rollback()
        kept = wait.apply_async((1,), connection=mine)
        mine.commit()
    assert wait.delay(1).id == kept.id != lost.id
    engine.dispose()


def test_an_entry_of_the_schedule_may_be_unique(file_app: Celery, gate: Gate) -> None:
    wait = waiting_task(file_app, gate, unique=True)
    file_app.conf.beat_schedule = {"often": {"task": "wait", "schedule": 1000.0, "args": (1,)}}
    first = wait.delay(1)
    assert file_app.schedule.run_now("often").id == first.id
    gate.open()
    first.get(timeout=DEADLINE_S)
    again = file_app.schedule.run_now("often")
    assert again.id != first.id
    assert again.get(timeout=DEADLINE_S) == 1


def test_a_call_made_with_the_headers_of_another_has_its_own_key(file_app: Celery, gate: Gate) -> None:
    gate.open()
    wait = waiting_task(file_app, gate)
    ids: list[str] = []

    @file_app.task(bind=True, unique=True)
    def parent(self: Any) -> None:
        ids.append(wait.apply_async((1,), headers=self.request.headers).id)

    first = parent.delay()
    first.get(timeout=DEADLINE_S)
    assert AsyncResult(ids[0], app=file_app).get(timeout=DEADLINE_S) == 1
    assert ids != [first.id]


def test_an_eager_call_is_never_a_duplicate(file_app: Celery) -> None:
    file_app.conf.task_always_eager = True

    @file_app.task(unique=True, raise_on_duplicate=True)
    def outer(depth: int = 0) -> int:
        return int(outer.apply_async((), unique_key="k").get(disable_sync_subtasks=False)) if depth else 1

    assert outer.delay(1).get() == 1


@pytest.mark.timeout(60)
def test_a_key_whose_process_was_killed_is_free_when_its_task_has_been_concluded(
    start_program: Callable[..., Any], make_app: MakeApp, database: Path
) -> None:
    program = start_program(
        """
@app.task(name="wait", unique=True)
def wait(x):
    say("begun")
    threading.Event().wait(60)
say("id", wait.delay(1).id)
threading.Event().wait(60)
"""
    )
    task_id = program.until("id").split()[1]
    program.until("begun")
    app = make_app(celerylite_runtime="off")

    @app.task(name="wait", unique=True)
    def wait(x: int) -> None: ...

    assert wait.delay(1).id == task_id
    program.process.kill()
    program.process.wait()
    app.start_runtime()
    with pytest.raises(Exception, match="is gone"):
        app.AsyncResult(task_id).get(timeout=PROGRAM_DEADLINE_S)
    again = wait.delay(1)
    assert again.id != task_id
    again.get(timeout=PROGRAM_DEADLINE_S)
    assert states_of(database)[task_id] == "FAILURE"


@pytest.mark.timeout(60)
def test_of_several_processes_one_gets_the_key(
    start_program: Callable[..., Any], make_app: MakeApp, database: Path
) -> None:
    code = """
app.conf.celerylite_runtime = "off"
@app.task(name="once", unique=True)
def once(turn): ...
app.store.queue_lengths()
say("ready")
sys.stdin.readline()
say("ids", *(once.delay(turn).id for turn in range(20)))
"""
    programs = [start_program(code, name=f"p{number}") for number in range(2)]
    app = make_app(celerylite_runtime="off")

    @app.task(name="once", unique=True)
    def once(turn: int) -> None: ...

    for program in programs:
        program.until("ready")
    for program in programs:
        program.tell()
    ids = [once.delay(turn).id for turn in range(20)]
    assert [program.until("ids").split()[1:] for program in programs] == [ids, ids]
    assert rows(database, "select count(*) from celerylite_messages") == [(20,)]
