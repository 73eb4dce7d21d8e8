"""Child processes that are killed, die, are let go or outlive nobody."""

from __future__ import annotations

import logging
import os
import resource
import signal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, signals, states
from celerylite.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from compat_tests.ours.prefork_fixtures import TWO_CHILDREN, Notes, children_of, gone, is_any_gone
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp, StartProgram

HERE = os.getpid()


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    """An app whose plain functions run in two child processes."""
    return make_app(**TWO_CHILDREN)


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@pytest.fixture
def arrivals() -> Any:
    """A pipe through which a task says that it runs: its process id, of ten characters."""
    receive, send = os.pipe()
    yield receive, send
    os.close(receive)
    os.close(send)


def arrive(arrivals: tuple[int, int]) -> None:
    os.write(arrivals[1], f"{os.getpid():10}".encode())


def arrived(arrivals: tuple[int, int]) -> int:
    return int(os.read(arrivals[0], 10))


def pid() -> int:
    return os.getpid()


# -- time limits and termination ---------------------------------------------------------------------------


def test_the_hard_limit_kills_the_process(
    app: Celery, arrivals: Any, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(time_limit=2.0)
    def hangs() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        arrive(arrivals)
        while True:
            pass

    result = hangs.delay()
    child = arrived(arrivals)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=DEADLINE_S)
    assert gone(child)
    assert f"Hard time limit (2.0s) exceeded for {hangs.name}[{result.id}]" in caplog.text
    assert app.task(name="next", pool="prefork")(pid).delay().get(timeout=DEADLINE_S) not in {HERE, child}


def test_handlers_of_a_killed_task_run_in_the_parent(app: Celery, notes: Notes) -> None:
    class Noted(app.Task):  # type: ignore[name-defined, misc]
        def on_failure(self, exc: BaseException, *args: Any) -> None:
            notes.add(f"failure {type(exc).__name__} {os.getpid()}")

        def after_return(self, status: str, *args: Any) -> None:
            notes.add(f"after {status} {os.getpid()}")

    @app.task(base=Noted, time_limit=0.2)
    def hangs() -> None:
        signal.pause()

    hangs.apply_async(throw=False)
    app.drain(timeout=DEADLINE_S)
    assert notes.lines == [f"failure TimeLimitExceeded {HERE}", f"after FAILURE {HERE}"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGUSR2"])
def test_revoke_with_terminate_ends_the_process_by_that_signal(app: Celery, arrivals: Any, name: str) -> None:
    @app.task
    def hangs() -> None:
        arrive(arrivals)
        signal.pause()

    result = hangs.delay()
    child = arrived(arrivals)
    result.revoke(terminate=True, signal=name)
    with pytest.raises(TaskRevokedError, match="terminated"):
        result.get(timeout=DEADLINE_S)
    assert result.state == states.REVOKED
    assert gone(child)


def test_a_task_may_clean_up_after_the_signal_of_terminate(app: Celery, arrivals: Any, notes: Notes) -> None:
    @app.task
    def careful() -> None:
        def clean_up(signum: int, frame: Any) -> None:
            notes.add(f"cleaned up after {signum}")
            os._exit(0)

        signal.signal(signal.SIGTERM, clean_up)
        arrive(arrivals)
        signal.pause()

    result = careful.delay()
    child = arrived(arrivals)
    result.revoke(terminate=True)
    assert gone(child)
    assert notes.lines == [f"cleaned up after {signal.SIGTERM.value}"]
    with pytest.raises(TaskRevokedError):
        result.get(timeout=DEADLINE_S)


def test_only_the_process_of_the_revoked_call_is_ended(app: Celery, arrivals: Any) -> None:
    release, hold = os.pipe()

    @app.task
    def waits() -> int:
        arrive(arrivals)
        os.read(release, 1)
        return os.getpid()

    calls = [waits.delay(), waits.delay()]
    both = {arrived(arrivals), arrived(arrivals)}
    calls[0].revoke(terminate=True)
    with pytest.raises(TaskRevokedError):
        calls[0].get(timeout=DEADLINE_S)
    os.write(hold, b"x")
    assert calls[1].get(timeout=DEADLINE_S) in both
    os.close(release)
    os.close(hold)


# -- children that die by themselves -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "status"),
    [(lambda: os.kill(os.getpid(), 9), r"signal 9 \(SIGKILL\)"), (lambda: os._exit(3), "exitcode 3")],
    ids=["killed", "exited"],
)
def test_a_child_that_dies_is_a_lost_worker(app: Celery, how: Any, status: str) -> None:
    @app.task
    def dies() -> None:
        how()

    with pytest.raises(WorkerLostError, match=rf"^Worker exited prematurely: {status} Job: \d+\.$"):
        dies.delay().get(timeout=DEADLINE_S)
    assert app.task(name="next")(pid).delay().get(timeout=DEADLINE_S) != HERE


def test_sys_exit_in_a_task_is_a_lost_worker_too(app: Celery) -> None:
    @app.task
    def exits() -> None:
        raise SystemExit(2)

    with pytest.raises(WorkerLostError):
        exits.delay().get(timeout=DEADLINE_S)


def test_with_reject_on_worker_lost_the_call_is_delivered_again(app: Celery) -> None:
    @app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
    def dies_once(self: Any) -> str:
        if not self.request.delivery_info["redelivered"]:
            os._exit(1)
        return "redelivered"

    assert dies_once.delay().get(timeout=DEADLINE_S) == "redelivered"


def test_with_acks_late_alone_a_dead_child_is_a_failure_as_in_celery(app: Celery) -> None:
    @app.task(acks_late=True)
    def dies() -> None:
        os._exit(1)

    with pytest.raises(WorkerLostError):
        dies.delay().get(timeout=DEADLINE_S)


def test_a_call_that_kills_its_child_each_time_fails_after_five_deliveries(app: Celery, notes: Notes) -> None:
    @app.task(acks_late=True, reject_on_worker_lost=True)
    def poison() -> None:
        notes.add("delivered")
        os._exit(1)

    with pytest.raises(WorkerLostError):
        poison.delay().get(timeout=DEADLINE_S)
    assert notes.lines == ["delivered"] * 5


def test_with_retry_on_worker_lost_the_call_is_retried_within_its_limit(app: Celery, notes: Notes) -> None:
    @app.task(bind=True, retry_on_worker_lost=True, max_retries=2, default_retry_delay=0)
    def dies(self: Any) -> None:
        notes.add(self.request.retries)
        os._exit(1)

    with pytest.raises(WorkerLostError):
        dies.delay().get(timeout=DEADLINE_S)
    assert notes.lines == ["0", "1", "2"]


def test_a_child_that_dies_after_the_outcome_changes_nothing(app: Celery, arrivals: Any) -> None:
    class Dies(app.Task):  # type: ignore[name-defined, misc]
        def on_success(self, *args: Any) -> None:
            os._exit(1)

    @app.task(base=Dies)
    def work() -> str:
        return "done"

    result = work.delay()
    assert result.get(timeout=DEADLINE_S) == "done"
    app.drain(timeout=DEADLINE_S)
    assert result.state == states.SUCCESS


# -- children that are let go --------------------------------------------------------------------------------


def test_a_child_leaves_after_its_number_of_tasks(make_app: MakeApp) -> None:
    app = make_app(**{**TWO_CHILDREN, "worker_concurrency": 1}, worker_max_tasks_per_child=2)
    task = app.task(pid)
    ran_in = [task.delay().get(timeout=DEADLINE_S) for _ in range(5)]
    assert [ran_in.count(child) for child in dict.fromkeys(ran_in)] == [2, 2, 1]
    assert gone(ran_in[0])


def test_a_child_that_has_grown_too_large_leaves_after_the_task(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    # A forked child begins with what this process has.
    limit = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 50_000
    app = make_app(**{**TWO_CHILDREN, "worker_concurrency": 1}, worker_max_memory_per_child=limit)

    @app.task
    def grows(mib: int) -> int:
        return len(b"x" * (mib << 20)) and os.getpid()

    first, second, third = (grows.delay(mib).get(timeout=DEADLINE_S) for mib in (1, limit // 1024, 1))
    assert first == second != third
    assert "exceeded memory limit" in caplog.text


def test_children_come_and_go_with_the_size_of_the_pool(app: Celery) -> None:
    task = app.task(pid)
    first = task.delay().get(timeout=DEADLINE_S)
    assert first != HERE
    app.control.pool_grow(1, reply=True)
    runtime = app._runtime
    assert runtime is not None
    assert runtime.places == 3
    app.control.pool_shrink(2, reply=True)
    assert runtime.places == 1
    surplus = set(children_of(app))
    stays = task.delay().get(timeout=DEADLINE_S)
    assert all(gone(child) for child in surplus - {stays})


def test_a_child_that_does_not_start_in_time_is_replaced(
    make_app: MakeApp, receive: Any, notes: Notes, caplog: pytest.LogCaptureFixture
) -> None:
    app = make_app(**{**TWO_CHILDREN, "worker_concurrency": 1}, worker_proc_alive_timeout=0.5)

    def hang_in_the_first(**_: Any) -> None:
        if os.getpid() != HERE:
            notes.add(os.getpid())
            if len(notes.lines) == 1:
                signal.pause()

    receive(signals.worker_process_init, hang_in_the_first)
    assert str(app.task(pid).delay().get(timeout=DEADLINE_S)) in notes.lines[1:]
    assert "Timed out waiting for UP message from ForkPoolWorker-1" in caplog.text
    assert gone(int(notes.lines[0]))


def test_children_that_idle_leave_where_only_single_tasks_need_them(
    file_app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("celerylite.worker._prefork"), "_IDLE_S", 0.2)
    to_first, to_second = os.pipe(), os.pipe()

    @file_app.task(pool="prefork")
    def meet(mine: int, other: int) -> int:
        os.write(other, b"x")
        os.read(mine, 1)
        return os.getpid()

    calls = [meet.delay(to_first[0], to_second[1]), meet.delay(to_second[0], to_first[1])]
    pids = [call.get(timeout=DEADLINE_S) for call in calls]
    # One stays; which, is no matter.
    assert is_any_gone(pids)
    for end in (*to_first, *to_second):
        os.close(end)


def test_a_template_that_dies_is_replaced(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    @app.task
    def kills_its_template() -> None:
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()

    with pytest.raises(WorkerLostError, match="SIGKILL"):
        kills_its_template.delay().get(timeout=DEADLINE_S)
    assert "the template of the child processes is gone" in caplog.text
    assert app.task(name="next")(pid).delay().get(timeout=DEADLINE_S) != HERE


# -- the end of the runtime ----------------------------------------------------------------------------------


def test_no_child_is_left_when_the_app_is_closed(app: Celery) -> None:
    app.task(pid).delay().get(timeout=DEADLINE_S)
    children = children_of(app)
    app.close()
    assert all(gone(child) for child in children)


def test_a_child_that_still_runs_when_the_grace_is_over_is_killed(make_app: MakeApp, arrivals: Any) -> None:
    app = make_app(**TWO_CHILDREN, result_extended=False)

    @app.task
    def hangs() -> None:
        arrive(arrivals)
        signal.pause()

    @app.task(acks_late=True)
    def hangs_late() -> None:
        arrive(arrivals)
        signal.pause()

    lost, late = hangs.delay(), hangs_late.delay()
    children = [arrived(arrivals), arrived(arrivals)]
    app.stop_runtime(grace=0.0)
    assert all(gone(child) for child in children)
    assert (lost.state, late.state) == (states.FAILURE, states.PENDING)
    assert app.store.queue_lengths() == {"celery": 1}


CODE = r"""
app.conf.update(worker_pool="prefork", worker_concurrency=2, celerylite_beat="off")

@app.task
def hangs():
    say("child", os.getpid(), os.getppid())
    threading.Event().wait()

hangs.delay()
hangs.delay()
threading.Event().wait()
"""


def test_no_child_outlives_a_killed_parent(start_program: StartProgram) -> None:
    program = start_program(CODE)
    lines = [program.until("child") for _ in range(2)]
    pids = {int(word) for line in lines for word in line.split()[1:]}
    assert len(pids) == 3  # Two children and their template.
    program.kill()
    assert all(gone(pid) for pid in pids)


MODULE = r"""
import os, threading
from celerylite import Celery, signals
app = Celery("proj")
app.conf.update(celerylite_beat="off")
LOADED_IN = os.getpid()
SET_UP_IN = []

@signals.worker_init.connect
def set_up(**kwargs):
    SET_UP_IN.append(os.getpid())

@app.task
def what_was_set_up():
    return SET_UP_IN

@app.task
def where():
    # The module was imported by the template, not inherited from the program.
    return os.getpid(), os.getppid(), LOADED_IN
"""


def test_an_app_that_can_be_imported_is_loaded_anew_and_not_forked(
    start_program: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "proj.py").write_text(MODULE)
    code = r"""
import os
import proj
proj.app.conf.worker_pool = "prefork"
child, template, loaded_in = proj.where.delay().get(timeout=10)
print("ok", os.getpid() not in (child, template), loaded_in == template, flush=True)
print("set up", proj.what_was_set_up.delay().get(timeout=10) == [template], flush=True)
"""
    program = start_program(code, prelude="")
    assert program.until("ok") == "ok True True"
    # As with Celery, where children are forked from a worker that has sent this signal.
    assert program.until("set up") == "set up True"
    assert program.end() == 0
    assert program.errors == ""


def test_the_worker_command_runs_tasks_in_children_and_stops_with_them(
    start_program: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "proj.py").write_text(MODULE)
    worker = start_program(
        "sys.argv[1:] = '-A proj worker -P prefork --autoscale 3,1 -l INFO'.split()\nmain()\n",
        prelude="import sys\nfrom celerylite.__main__ import main\n",
        name="command",
    )
    caller = start_program(
        "from proj import app, where\napp.conf.celerylite_runtime = 'off'\n"
        "print('ran in', *where.delay().get(timeout=10), flush=True)\n",
        prelude="",
        name="caller",
    )
    child, template, _ = map(int, caller.until("ran in").split()[2:])
    assert worker.process.pid not in (child, template)
    worker.terminate()
    assert worker.end() == 0
    assert gone(child)
    assert gone(template)
