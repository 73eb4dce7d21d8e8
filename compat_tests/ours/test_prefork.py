"""Tasks in child processes: which run there, what they see, and how their outcome comes back."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, chain, chord, signals, states
from celerylite.exceptions import ImproperlyConfigured, SoftTimeLimitExceeded
from compat_tests.ours.prefork_fixtures import TWO_CHILDREN, Notes, children_of, gone
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, rows

HERE = os.getpid()


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    """An app whose plain functions run in two child processes."""
    return make_app(**TWO_CHILDREN)


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


def pid() -> int:
    return os.getpid()


# -- which tasks -----------------------------------------------------------------------------------------


def test_plain_functions_run_in_threads_unless_prefork_is_asked_for(file_app: Celery) -> None:
    # Although the default of worker_pool is Celery's: "prefork".
    assert file_app.conf.worker_pool == "prefork"
    assert file_app.task(pid).delay().get(timeout=DEADLINE_S) == HERE


def test_a_single_task_can_ask_for_a_child_process(file_app: Celery) -> None:
    inside, outside = file_app.task(name="inside", pool="prefork")(pid), file_app.task(name="outside")(pid)
    assert inside.delay().get(timeout=DEADLINE_S) != HERE
    assert outside.delay().get(timeout=DEADLINE_S) == HERE


def test_worker_pool_sends_plain_functions_to_children_and_leaves_coroutines_on_the_loop(app: Celery) -> None:
    async def on_the_loop() -> int:
        return os.getpid()

    assert app.task(name="plain")(pid).delay().get(timeout=DEADLINE_S) != HERE
    assert app.task(name="thread", pool="threads")(pid).delay().get(timeout=DEADLINE_S) == HERE
    assert app.task(name="loop")(on_the_loop).delay().get(timeout=DEADLINE_S) == HERE
    in_a_child = app.task(name="coroutine in a child", pool="prefork")(on_the_loop)
    assert in_a_child.delay().get(timeout=DEADLINE_S) != HERE


def test_a_database_in_memory_keeps_tasks_in_threads_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    app = Celery("memory", broker="memory://", backend="cache+memory://")
    app.conf.worker_pool = "prefork"
    task = app.task(pid)
    try:
        app.start_runtime()
        assert task.delay().get(timeout=DEADLINE_S) == HERE
    finally:
        app.close()
    assert "pool 'prefork': the database is in memory" in caplog.text


def test_an_unknown_pool_of_a_task_is_told_and_means_threads(
    file_app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    task = file_app.task(name="odd", pool="green")(pid)
    assert task.delay().get(timeout=DEADLINE_S) == HERE
    assert "task odd: expected one of prefork, processes, solo, threads as pool, got 'green'" in caplog.text


def test_an_unknown_start_method_is_refused_when_the_runtime_starts(make_app: MakeApp) -> None:
    app = make_app(**TWO_CHILDREN, worker_pool_start_method="clone")
    with pytest.raises(ImproperlyConfigured, match="expected one of fork, forkserver, spawn, got 'clone'"):
        app.start_runtime()


def test_a_task_defined_after_the_children_were_made_runs_in_new_ones(app: Celery) -> None:
    assert app.task(name="early")(pid).delay().get(timeout=DEADLINE_S) != HERE
    first = set(children_of(app))
    late = app.task(name="late")(pid).delay().get(timeout=DEADLINE_S)
    assert late not in {HERE, *first}


def test_as_many_calls_run_at_once_as_there_are_children(app: Celery, tmp_path: Path) -> None:
    pipes = [os.pipe(), os.pipe()]

    @app.task
    def meet(mine: int, other: int) -> int:
        # Each waits for the byte of the other: one after the other they would wait for ever.
        os.write(pipes[other][1], b"x")
        os.read(pipes[mine][0], 1)
        return os.getpid()

    app.finalize()
    calls = [meet.delay(0, 1), meet.delay(1, 0)]
    assert len({call.get(timeout=DEADLINE_S) for call in calls}) == 2
    for end in sum(pipes, ()):
        os.close(end)


# -- what a task sees ------------------------------------------------------------------------------------


def test_states_written_in_a_child_are_seen_outside(app: Celery, notes: Notes) -> None:
    release, hold = os.pipe()

    @app.task(bind=True, track_started=True)
    def work(self: Any) -> None:
        started = self.AsyncResult(self.request.id)
        notes.add(started.state)
        notes.add(started.info["pid"] == os.getpid())
        self.update_state(state="PROGRESS", meta={"done": 3})
        notes.add("progress")
        os.read(release, 1)

    result = work.delay()
    with app.store.watch(result.id):
        while not notes.lines[2:]:
            threading.Event().wait(0.01)
    assert (result.state, result.info) == ("PROGRESS", {"done": 3})
    os.write(hold, b"x")
    result.get(timeout=DEADLINE_S)
    assert notes.lines[:2] == [states.STARTED, "True"]
    os.close(release)
    os.close(hold)


def test_what_a_task_launches_in_a_child_runs_and_is_among_its_children(app: Celery) -> None:
    inner = app.task(name="inner", pool="threads")(pid)

    @app.task
    def outer() -> str:
        return str(inner.delay().id)

    result = outer.delay()
    launched = result.get(timeout=DEADLINE_S)
    assert [child.id for child in result.children] == [launched]
    assert result.children[0].get(timeout=DEADLINE_S) == HERE


def test_waiting_for_a_task_in_a_child_is_refused_as_in_celery(app: Celery) -> None:
    inner = app.task(name="inner")(pid)

    @app.task
    def outer() -> int:
        return int(inner.delay().get(timeout=1))

    with pytest.raises(RuntimeError, match=r"Never call result\.get"):
        outer.delay().get(timeout=DEADLINE_S)


def test_a_retry_keeps_the_id_and_leaves_with_the_outcome(app: Celery, database: Path) -> None:
    @app.task(bind=True, max_retries=2)
    def stubborn(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    result = stubborn.delay()
    assert result.get(timeout=DEADLINE_S) == 2
    statement = "select retries, state from celerylite_runs where task_id = ? order by 1"
    attempts = rows(database, statement, result.id)
    assert attempts == [(0, states.RETRY), (1, states.RETRY), (2, states.SUCCESS)]


def test_workflows_go_through_children_and_threads(app: Celery) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(pool="threads")
    def double(x: int) -> int:
        return 2 * x

    @app.task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(bind=True)
    def instead(self: Any) -> Any:
        return self.replace(add.s(20, 22))

    assert chain(add.s(1, 2), double.s(), add.s(4))().get(timeout=DEADLINE_S) == 10
    assert chord([add.s(1, 1), double.s(4)])(total.s()).get(timeout=DEADLINE_S) == 10
    assert instead.delay().get(timeout=DEADLINE_S) == 42


def test_an_exception_comes_back_with_its_type_and_its_traceback(app: Celery) -> None:
    @app.task
    def fails() -> None:
        raise LookupError("not", "there")

    result = fails.delay()
    with pytest.raises(LookupError) as caught:
        result.get(timeout=DEADLINE_S)
    assert caught.value.args == ("not", "there")
    assert 'raise LookupError("not", "there")' in str(result.traceback)


def test_a_result_that_cannot_be_stored_is_a_failure(app: Celery) -> None:
    @app.task
    def gives_an_object() -> object:
        return object()

    with pytest.raises(Exception, match="not JSON serializable"):
        gives_an_object.delay().get(timeout=DEADLINE_S)


def test_a_step_of_ours_that_fails_in_a_child_is_a_visible_failure(app: Celery) -> None:
    @app.task
    def work() -> int:
        return 1

    @app.task
    def takes_nothing() -> None: ...

    # It gets the result as an argument, which is found out when the task has ended.
    result = work.apply_async(link=takes_nothing.s())
    with pytest.raises(TypeError, match="takes 0 positional arguments"):
        result.get(timeout=DEADLINE_S)


def test_errbacks_and_links_follow_an_outcome_in_a_child(app: Celery, notes: Notes) -> None:
    @app.task
    def work(fail: bool) -> str:
        if fail:
            raise KeyError("broken")
        return "fine"

    @app.task
    def note(line: str) -> None:
        notes.add(line)

    @app.task
    def note_error(request: Any, exc: BaseException, traceback: Any) -> None:
        notes.add(repr(exc))

    work.apply_async((False,), link=note.s())
    work.apply_async((True,), link_error=note_error.s())
    app.drain(timeout=DEADLINE_S)
    assert sorted(notes.lines) == ["KeyError('broken')", "fine"]


# -- handlers and signals ----------------------------------------------------------------------------------


def test_handlers_run_in_the_child_once_the_outcome_is_durable(app: Celery, notes: Notes) -> None:
    class Noted(app.Task):  # type: ignore[name-defined, misc]
        def before_start(self, *args: Any) -> None:
            notes.add(f"before {os.getpid()}")

        def on_success(self, retval: Any, task_id: str, *args: Any) -> None:
            notes.add(f"success {os.getpid()} {self.AsyncResult(task_id).state}")

        def after_return(self, status: str, *args: Any) -> None:
            notes.add(f"after {os.getpid()}")

    child = app.task(name="noted", base=Noted)(pid).delay().get(timeout=DEADLINE_S)
    app.drain(timeout=DEADLINE_S)
    assert notes.lines == [f"before {child}", f"success {child} SUCCESS", f"after {child}"]


def test_signals_around_a_task_are_sent_in_the_child(app: Celery, notes: Notes, receive: Any) -> None:
    for name in ("task_prerun", "task_success", "task_postrun", "task_received"):
        receive(getattr(signals, name), lambda name=name, **_: notes.add(f"{name} {os.getpid()}"))
    child = app.task(name="signalled")(pid).delay().get(timeout=DEADLINE_S)
    app.drain(timeout=DEADLINE_S)
    assert notes.lines == [
        f"task_received {HERE}",
        f"task_prerun {child}",
        f"task_success {child}",
        f"task_postrun {child}",
    ]


def test_a_child_tells_when_it_starts_and_when_it_leaves(app: Celery, notes: Notes, receive: Any) -> None:
    receive(signals.worker_process_init, lambda **_: notes.add(f"init {os.getpid()}"))
    receive(signals.worker_process_shutdown, lambda pid, exitcode, **_: notes.add(f"end {pid} {exitcode}"))
    child = app.task(name="brief")(pid).delay().get(timeout=DEADLINE_S)
    app.close()
    assert gone(child)
    assert notes.lines.count(f"init {child}") == 1
    assert notes.lines.count(f"end {child} 0") == 1


def test_log_lines_of_a_child_reach_the_handlers_of_this_process(
    app: Celery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    @app.task(name="talks")
    def talks() -> None:
        logging.getLogger("of.the.user").info("said %s", "so", extra={"odd": object()})
        try:
            raise KeyError("inside")
        except KeyError:
            logging.getLogger("of.the.user").exception("it broke")

    result = talks.delay()
    result.get(timeout=DEADLINE_S)
    app.drain(timeout=DEADLINE_S)
    mine = [record for record in caplog.records if record.name == "of.the.user"]
    assert [record.getMessage() for record in mine] == ["said so", "it broke"]
    assert {(vars(record)["task_name"], vars(record)["task_id"]) for record in mine} == {("talks", result.id)}
    assert "KeyError: 'inside'" in str(mine[1].exc_text)
    assert mine[0].processName is not None
    assert mine[0].processName.startswith("ForkPoolWorker-")
    assert mine[0].process != HERE


# -- limits inside a child -----------------------------------------------------------------------------------


def test_the_soft_limit_is_raised_in_a_task_that_waits(app: Celery) -> None:
    @app.task(soft_time_limit=0.2)
    def waits() -> str:
        try:
            signal.pause()
        except SoftTimeLimitExceeded:
            return "told"
        return "not told"

    assert waits.delay().get(timeout=DEADLINE_S) == "told"


def test_the_soft_limit_fails_a_task_that_does_not_catch_it_and_its_child_goes_on(app: Celery) -> None:
    @app.task(soft_time_limit=0.2)
    def spins() -> None:
        while True:
            pass

    plain = app.task(name="after")(pid)
    before = {plain.delay().get(timeout=DEADLINE_S) for _ in range(4)}
    with pytest.raises(SoftTimeLimitExceeded):
        spins.delay().get(timeout=DEADLINE_S)
    app.drain(timeout=DEADLINE_S)
    assert before <= set(children_of(app))


def test_signals_for_the_whole_group_are_left_to_the_parent(app: Celery) -> None:
    @app.task
    def interrupted() -> str:
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), signum)
        return "goes on"

    assert interrupted.delay().get(timeout=DEADLINE_S) == "goes on"
