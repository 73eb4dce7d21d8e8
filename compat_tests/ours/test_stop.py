"""The end of a runtime: stops that lose nothing, and scripts that end with tasks outstanding."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery
from celerylite._store import MessageState
from celerylite.beat import BeatPidbox, Service
from celerylite.exceptions import WorkerLostError
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import (
    DEADLINE_S,
    Gate,
    MakeApp,
    StartProgram,
    rows,
    states_of,
)

# -- a graceful stop -----------------------------------------------------------------------------------


def test_a_stop_waits_for_what_runs_and_gives_back_what_is_held(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=1)

    @app.task(name="work")
    def work(n: int) -> int:
        gate.wait()
        return n

    results = [work.delay(n) for n in range(3)]
    gate.until_arrived(1)
    runtime = app._runtime
    assert runtime is not None
    stopping = threading.Thread(target=app.stop_runtime)
    stopping.start()
    assert runtime.stop_event.wait(DEADLINE_S)
    gate.open()
    stopping.join(DEADLINE_S)
    assert gate.arrived == 1
    assert results[0].get(timeout=DEADLINE_S) == 0
    assert app.store.unfinished() == {MessageState.READY: 2}
    # The second start continues, and counts none of them as delivered twice.
    app.start_runtime()
    assert [result.get(timeout=DEADLINE_S) for result in results] == [0, 1, 2]
    assert app.store.unfinished() == {}


def test_messages_given_back_are_not_marked_redelivered(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=1)

    @app.task
    def first() -> None:
        gate.wait()

    @app.task(bind=True)
    def second(self: Any) -> bool:
        return bool(self.request.delivery_info["redelivered"])

    first.delay()
    gate.until_arrived(1)
    result = second.delay()
    gate.open()
    app.stop_runtime()
    app.start_runtime()
    assert result.get(timeout=DEADLINE_S) is False


def test_a_task_that_outlasts_the_grace_fails_as_lost(make_app: MakeApp, gate: Gate) -> None:
    app = make_app()

    @app.task
    def work() -> None:
        gate.wait()

    result = work.delay()
    gate.until_arrived(1)
    app.stop_runtime(grace=0.01)
    with pytest.raises(WorkerLostError, match=r"Worker stopped while .*work\[.*\] was running"):
        result.get(timeout=DEADLINE_S)
    assert result.state == "FAILURE"
    gate.open()


def test_a_late_acknowledged_task_that_outlasts_the_grace_is_given_back(
    make_app: MakeApp, gate: Gate
) -> None:
    app = make_app()

    @app.task(acks_late=True, bind=True)
    def work(self: Any) -> str:
        gate.wait()
        return "done"

    result = work.delay()
    gate.until_arrived(1)
    app.stop_runtime(grace=0.01)
    assert app.store.unfinished() == {MessageState.READY: 1}
    assert result.state == "PENDING"
    gate.open()
    app.start_runtime()
    assert result.get(timeout=DEADLINE_S) == "done"
    assert gate.arrived == 2


def test_what_a_given_back_task_returns_later_is_discarded(
    make_app: MakeApp, gate: Gate, database: Path
) -> None:
    app = make_app()
    ended = threading.Event()

    @app.task(acks_late=True)
    def work() -> str:
        try:
            gate.wait()
        finally:
            ended.set()
        return "too late"

    result = work.delay()
    gate.until_arrived(1)
    app.stop_runtime(grace=0.01)
    gate.open()
    assert ended.wait(DEADLINE_S)
    assert result.state == "PENDING"
    assert states_of(database) == {}
    assert rows(database, "select state from celerylite_messages") == [(MessageState.READY,)]


def test_a_coroutine_that_outlasts_the_grace_is_told_to_stop(make_app: MakeApp, journal: Journal) -> None:
    app = make_app()

    @app.task
    async def work() -> None:
        journal.note("working")
        try:
            await asyncio.Event().wait()
        finally:
            journal.note("left")

    result = work.delay()
    journal.until("working")
    app.stop_runtime(grace=0.01)
    journal.until("left")
    assert result.state == "FAILURE"


def test_a_coroutine_on_the_loop_of_the_block_ends_with_the_block(
    make_app: MakeApp, journal: Journal
) -> None:
    app = make_app(celerylite_exit_grace=0.01)

    @app.task(acks_late=True)
    async def work() -> None:
        journal.note("working")
        try:
            await asyncio.Event().wait()
        finally:
            journal.note("left")

    async def main() -> None:
        async with app.runtime():
            await work.aapply_async()
            await asyncio.to_thread(journal.until, "working")
        await asyncio.to_thread(journal.until, "left")

    asyncio.run(main())
    assert app.store.unfinished() == {MessageState.READY: 1}


def test_what_is_published_during_a_stop_waits_for_the_next_start(make_app: MakeApp, gate: Gate) -> None:
    app = make_app()

    @app.task
    def child() -> str:
        return "ran"

    @app.task
    def parent() -> str:
        gate.wait()
        return str(child.delay().id)

    result = parent.delay()
    gate.until_arrived(1)
    runtime = app._runtime
    assert runtime is not None
    stopping = threading.Thread(target=runtime.stop)
    stopping.start()
    assert runtime.stop_event.wait(DEADLINE_S)
    gate.open()
    stopping.join(DEADLINE_S)
    assert app.store.unfinished() == {MessageState.READY: 1}
    app.stop_runtime()
    app.start_runtime()
    child_result: Any = app.AsyncResult(result.get(timeout=DEADLINE_S))
    assert child_result.get(timeout=DEADLINE_S) == "ran"


def test_a_stop_may_be_asked_for_twice_and_by_a_task_itself(file_app: Celery) -> None:
    @file_app.task
    def close_it() -> None:
        file_app.stop_runtime(grace=0.01)

    result = close_it.delay()
    runtime = file_app._runtime
    assert runtime is not None
    assert runtime.stop_event.wait(DEADLINE_S)
    file_app.close()
    file_app.close()
    # Its own stop waits for it no longer than it says. The app opens its database anew.
    assert result.state == "FAILURE"
    assert isinstance(result.result, WorkerLostError)
    file_app.close()


def test_closing_an_app_waits_for_another_thread_that_stops_its_runtime(file_app: Celery, gate: Gate) -> None:
    @file_app.task
    def work() -> int:
        gate.wait()
        return 1

    result = work.delay()
    gate.until_arrived(1)
    runtime = file_app._runtime
    assert runtime is not None
    with ThreadPoolExecutor(2) as pool:
        stopping = pool.submit(file_app.stop_runtime)
        assert runtime.stop_event.wait(DEADLINE_S)
        closing = pool.submit(file_app.close)
        # It would be over long before.
        assert not wait([closing], timeout=0.2).done
        gate.open()
        stopping.result(DEADLINE_S)
        closing.result(DEADLINE_S)
    assert result.get(timeout=DEADLINE_S) == 1
    file_app.close()


def test_a_stopped_runtime_has_left_the_list_of_workers(file_app: Celery) -> None:
    file_app.start_runtime()
    assert len(file_app.store.workers()) == 1
    file_app.stop_runtime()
    assert file_app.store.workers() == []


# -- scripts -------------------------------------------------------------------------------------------


def test_a_script_that_ends_finishes_the_tasks_it_published(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program("""
@app.task
def work(n):
    say("ran", n)
@app.task
async def work_async(n):
    say("ran", n)
for n in range(10):
    work.delay(n)
    work_async.delay(n + 10)
say("end of the script")
""")
    assert program.end() == 0
    assert program.errors == ""
    assert sorted(program.lines) == sorted([*(f"ran {n}" for n in range(20)), "end of the script"])
    assert list(states_of(database).values()) == ["SUCCESS"] * 20


def test_a_script_that_ends_finishes_chains_and_chords(start_program: StartProgram, database: Path) -> None:
    program = start_program("""
@app.task
def add(a, b):
    return a + b
@app.task
def total(values):
    say("total", sum(values))
@app.task
async def show(value):
    say("value", value)
chord([add.si(n, n) for n in range(4)], total.s()).delay()
chain(add.s(1, 1), add.s(2), add.s(3), show.s()).delay()
""")
    assert program.end() == 0
    assert program.errors == ""
    assert sorted(program.lines) == ["total 12", "value 7"]


def test_a_script_waits_no_longer_than_its_grace(start_program: StartProgram, database: Path) -> None:
    program = start_program("""
app.conf.celerylite_exit_grace = 0.2
@app.task
def endless():
    say("started")
    threading.Event().wait(60)
@app.task(acks_late=True)
def endless_late():
    say("started")
    threading.Event().wait(60)
say(endless.delay().id)
say(endless_late.delay().id)
""")
    assert program.end() == 0
    endless, late = (line for line in program.lines if line != "started")
    assert states_of(database) == {endless: "FAILURE"}
    assert rows(database, "select task_id, state from celerylite_messages") == [(late, MessageState.READY)]
    assert "Traceback" not in program.errors
    assert "at exit: expected all tasks to end within 0.2 s" in program.errors


def test_a_script_does_not_wait_for_calls_of_a_later_time(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program("""
@app.task
def later():
    say("ran")
later.apply_async(countdown=3600)
""")
    assert program.end() == 0
    assert program.lines == []
    assert program.errors == ""
    assert rows(database, "select state from celerylite_messages") == [(MessageState.SCHEDULED,)]


def test_a_script_with_an_error_ends_with_it_and_finishes_its_tasks(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program("""
@app.task
def work():
    return "done"
work.delay()
raise RuntimeError("a mistake of the script")
""")
    assert program.end() == 1
    assert program.errors.count("Traceback") == 1
    assert "RuntimeError: a mistake of the script" in program.errors
    assert list(states_of(database).values()) == ["SUCCESS"]


def test_a_script_that_calls_exit_keeps_its_code(start_program: StartProgram, database: Path) -> None:
    program = start_program("""
@app.task
def work():
    return "done"
work.delay()
sys.exit(7)
""")
    assert program.end() == 7
    assert program.errors == ""
    assert list(states_of(database).values()) == ["SUCCESS"]


def test_a_script_interrupted_from_the_keyboard_ends(start_program: StartProgram, database: Path) -> None:
    program = start_program("""
import signal
# A test run in the background of a shell would hand down that the signal is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
app.conf.celerylite_exit_grace = 0.2
@app.task(acks_late=True)
def endless():
    say("started")
    threading.Event().wait(60)
endless.delay()
try:
    while True:  # a signal that comes right before a wait is seen after it
        threading.Event().wait(0.05)
except KeyboardInterrupt:
    say("interrupted")
""")
    program.until("started")
    program.process.send_signal(2)
    assert program.end() == 0
    assert "interrupted" in program.lines
    assert rows(database, "select state from celerylite_messages") == [(MessageState.READY,)]


def test_a_script_whose_main_function_runs_a_loop_ends(start_program: StartProgram, database: Path) -> None:
    program = start_program("""
import asyncio
@app.task
async def work(n):
    return n * 2
async def main():
    async with app.runtime():
        say(await (await work.adelay(21)))
    result = await work.adelay(4)
    say(await result)
asyncio.run(main())
""")
    assert program.end() == 0
    assert program.lines == ["42", "8"]
    assert program.errors == ""


def test_a_second_process_takes_over_what_a_script_leaves(
    start_program: StartProgram, make_app: MakeApp, database: Path
) -> None:
    app = make_app()

    @app.task(name="shared")
    def shared(n: int) -> int:
        return n + 1

    app.start_runtime(queues=["other"])
    program = start_program("""
app.conf.worker_concurrency = 1
@app.task(name="shared")
def shared(n):
    return n + 1
ids = [app.send_task("shared", (n,), queue="other").id for n in range(5)]
say(*ids)
""")
    assert program.end() == 0
    assert program.errors == ""
    for n, task_id in enumerate(program.lines[0].split()):
        result: Any = app.AsyncResult(task_id)
        assert result.get(timeout=DEADLINE_S) == n + 1


def test_a_script_leaves_nothing_to_a_beat_which_runs_no_tasks(
    start_program: StartProgram, make_app: MakeApp, database: Path
) -> None:
    app = make_app(celerylite_runtime="off")
    pidbox = BeatPidbox(Service(app, hostname="beat@here"))
    pidbox.start()
    try:
        while not app.control.ping(destination=["beat@here"], timeout=DEADLINE_S):
            pass  # It joins in a thread of its own, and who is not there is not waited for.
        program = start_program("""
app.conf.worker_concurrency = 1
@app.task
def slow():
    threading.Event().wait(0.3)
for _ in range(3):
    slow.delay()
""")
        assert program.end() == 0
        assert list(states_of(database).values()) == ["SUCCESS"] * 3
    finally:
        pidbox.stop()


def test_a_script_finishes_what_it_runs_although_others_could_take_the_rest(
    start_program: StartProgram, make_app: MakeApp, database: Path
) -> None:
    other = make_app()
    other.start_runtime(queues=["nothing"])
    program = start_program("""
app.conf.worker_concurrency = 1
@app.task
def work(n):
    say("started", n)
    sys.stdin.readline()
    return n
ids = [work.delay(n).id for n in range(2)]
say("ids", *ids)
""")
    program.until("started 0")
    # Only then nothing more is taken.
    program.until_error("stopping: waiting")
    program.tell()
    assert program.end() == 0
    first, second = next(line for line in program.lines if line.startswith("ids")).split()[1:]
    assert states_of(database) == {first: "SUCCESS"}
    assert rows(database, "select task_id, state from celerylite_messages") == [(second, MessageState.READY)]
