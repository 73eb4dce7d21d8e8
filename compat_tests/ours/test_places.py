"""Limits over all processes: so many calls of a task, or of a key, run at once, and the others wait."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, Task
from celerylite._store import open_store
from celerylite.exceptions import Reject, TaskRevokedError
from compat_tests.ours.runtime_fixtures import (
    DEADLINE_S,
    PRELUDE,
    PROGRAM_DEADLINE_S,
    ROOT,
    Gate,
    MakeApp,
    Program,
    rows,
)
from compat_tests.ours.store_fixtures import make_url


def limited_task(app: Celery, gate: Gate, limit: int | None = 1, **options: Any) -> Any:
    @app.task(name="wait", concurrency_limit=limit, **options)
    def wait(x: int = 0) -> int:
        gate.wait()
        return x

    return wait


def parked(database: Path, number: int) -> None:
    """Wait until so many calls have found no place."""
    for _ in range(int(DEADLINE_S / 0.01)):
        if rows(database, "select count(*) from celerylite_parked") == [(number,)]:
            return
        threading.Event().wait(0.01)
    raise AssertionError(rows(database, "select * from celerylite_parked"))


def test_no_more_calls_of_a_task_run_at_once_than_its_limit(make_app: MakeApp, gate: Gate) -> None:
    app = make_app(worker_concurrency=8)
    wait = limited_task(app, gate, 2)
    results = [wait.delay(x) for x in range(6)]
    gate.until_arrived(2)
    gate.open()
    assert [result.get(timeout=DEADLINE_S) for result in results] == list(range(6))
    assert gate.most == 2


def test_calls_that_wait_for_a_place_stand_in_nobodys_way(
    make_app: MakeApp, gate: Gate, database: Path
) -> None:
    app = make_app(worker_concurrency=2, worker_prefetch_multiplier=1)
    wait = limited_task(app, gate)

    @app.task
    def other(x: int) -> int:
        return x

    results = [wait.delay(x) for x in range(10)]
    gate.until_arrived(1)
    assert [other.delay(x).get(timeout=DEADLINE_S) for x in range(3)] == [0, 1, 2]
    parked(database, 9)
    gate.open()
    assert [result.get(timeout=DEADLINE_S) for result in results] == list(range(10))
    assert gate.most == 1
    # Waiting was no attempt.
    assert rows(database, "select count(*), max(retries) from celerylite_runs where name = 'wait'") == [
        (10, 0)
    ]


@pytest.mark.parametrize("key", ["{x}", lambda args, kwargs: args[0]])
def test_a_key_has_a_limit_of_its_own(make_app: MakeApp, gate: Gate, database: Path, key: Any) -> None:
    app = make_app(worker_concurrency=8)
    wait = limited_task(app, gate, concurrency_key=key)
    results = [wait.delay(x) for x in (1, 1, 2, 2, 3)]
    gate.until_arrived(3)
    parked(database, 2)
    gate.open()
    assert [result.get(timeout=DEADLINE_S) for result in results] == [1, 1, 2, 2, 3]
    assert gate.most <= 3


def test_the_key_of_a_call_that_was_sent_by_name_is_made_where_it_runs(
    make_app: MakeApp, gate: Gate, database: Path
) -> None:
    app, sender = make_app(worker_concurrency=8), make_app(celerylite_runtime="off")
    limited_task(app, gate, concurrency_key="{x}")
    results = [sender.send_task("wait", (x,)) for x in (1, 1, 2)]
    app.start_runtime()
    gate.until_arrived(2)
    parked(database, 1)
    gate.open()
    assert [result.get(timeout=DEADLINE_S) for result in results] == [1, 1, 2]


def test_coroutines_have_limits_too(make_app: MakeApp) -> None:
    app = make_app(worker_concurrency=8)
    inside: list[int] = [0, 0]

    @app.task(concurrency_limit=2)
    async def step(x: int) -> int:
        inside[0] += 1
        inside[1] = max(inside)
        for _ in range(10):
            await asyncio.tasks.sleep(0)
        inside[0] -= 1
        return x

    results = [step.delay(x) for x in range(12)]
    assert [result.get(timeout=DEADLINE_S) for result in results] == list(range(12))
    assert inside[1] <= 2


@pytest.mark.parametrize("how", ["failure", "retry", "reject"])
def test_a_place_is_free_however_its_call_ends(file_app: Celery, how: str) -> None:
    @file_app.task(bind=True, concurrency_limit=1, max_retries=3)
    def end(self: Any, x: int) -> int:
        if how == "failure":
            raise KeyError(x)
        if how == "retry" and self.request.retries == 0:
            raise self.retry(countdown=0)
        if how == "reject" and not self.request.delivery_info["redelivered"]:
            raise Reject("again", requeue=True)
        return x

    results = [end.delay(x) for x in range(4)]
    for x, result in enumerate(results):
        if how == "failure":
            with pytest.raises(KeyError):
                result.get(timeout=DEADLINE_S)
        else:
            assert result.get(timeout=DEADLINE_S) == x


def test_a_call_that_waits_for_a_place_can_be_revoked(file_app: Celery, gate: Gate, database: Path) -> None:
    wait = limited_task(file_app, gate)
    first, second = wait.delay(1), wait.delay(2)
    gate.until_arrived(1)
    parked(database, 1)
    second.revoke()
    with pytest.raises(TaskRevokedError):
        second.get(timeout=DEADLINE_S)
    gate.open()
    assert first.get(timeout=DEADLINE_S) == 1


@pytest.mark.parametrize("limit", [0, -1, 1.5, "2", True])
def test_a_limit_that_is_none_is_refused_where_it_is_written(file_app: Celery, limit: Any) -> None:
    def step() -> None: ...

    text = re.escape(f"concurrency_limit: expected a whole number of at least 1, got {limit!r}")
    with pytest.raises(ValueError, match=f"task step: {text}"):
        file_app.task(concurrency_limit=limit)(step)
    with pytest.raises(ValueError, match=f"task proj.step: {text}"):
        file_app.task(name="proj.step", concurrency_limit=limit)(step)
    with pytest.raises(ValueError, match=f"task proj.Step: {text}"):
        file_app.register_task(type("Step", (Task,), {"name": "proj.Step", "concurrency_limit": limit})())
    file_app.finalize()
    assert not [name for name in file_app.tasks if name.endswith("step")]


def test_a_limit_that_is_none_by_the_time_of_the_call_is_refused_there(file_app: Celery, gate: Gate) -> None:
    wait = limited_task(file_app, gate)
    wait.concurrency_limit = 0
    with pytest.raises(ValueError, match="concurrency_limit: expected a whole number of at least 1, got 0"):
        wait.delay(1)


def test_a_key_that_does_not_fit_the_arguments_is_refused_at_the_call(file_app: Celery, gate: Gate) -> None:
    wait = limited_task(file_app, gate, concurrency_key="{z}")
    text = "expected names of its arguments in braces (x), got '{z}'"
    with pytest.raises(TypeError, match=re.escape(text)):
        wait.delay(1)


@pytest.mark.timeout(60)
def test_a_program_that_ends_finishes_the_calls_that_wait_for_a_place(
    start_program: Callable[..., Program], database: Path
) -> None:
    program = start_program(
        """
@app.task(concurrency_limit=1)
def step(x):
    threading.Event().wait(0.01)
for x in range(10):
    step.delay(x)
"""
    )
    assert program.process.wait(PROGRAM_DEADLINE_S) == 0
    assert rows(database, "select status, count(*) from celery_taskmeta group by status") == [("SUCCESS", 10)]


# -- over processes --------------------------------------------------------------------------------------

#: Three processes, forked when all is imported. Each call tells in one file when it begins and ends.
_THREE = """
def note(*words):
    with open("notes.txt", "a") as notes:
        notes.write(" ".join(map(str, words)) + "\\n")
@app.task(concurrency_limit=2)
def work(x):
    note("begin", x, os.getpid())
    threading.Event().wait(0.02)
    note("end", x, os.getpid())
import celerylite.worker
app.store.queue_lengths()
for _ in range(2):
    if not os.fork():
        break
say("forked")
app.start_runtime()
say("started")
group([work.s(x) for x in range(10)]).delay().get(timeout=50)
say("done")
os.read(0, 1)
app.close()
os._exit(0)
"""

#: A call that holds the only place until its process is killed.
_HOLDER = """
app.conf.celerylite_lease = 2.0
@app.task(name="stay", concurrency_limit=1)
def stay(x):
    say("begun")
    threading.Event().wait(60)
stay.delay(0)
threading.Event().wait(60)
"""

Start = Callable[[str], Program]


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from make_url(request.param, tmp_path)


@pytest.fixture
def start(url: str, tmp_path: Path) -> Iterator[Start]:
    """Start a program on the database of the test."""
    # Its tables are made here, where all is imported: on a busy server that takes its time.
    open_store(url).close()
    programs: list[Program] = []

    def start(code: str) -> Program:
        file = tmp_path / "program.py"
        file.write_text(PRELUDE + code)
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
        environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "CELERYLITE_DATABASE": url}
        process = subprocess.Popen(
            [sys.executable, str(file)],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        programs.append(Program(process))
        return programs[-1]

    yield start
    for program in programs:
        # Processes that it forked hear of the end in this way.
        assert program.process.stdin is not None
        program.process.stdin.close()
        program.close()


@pytest.mark.timeout(60)
def test_three_processes_together_keep_to_the_limit(start: Start, tmp_path: Path) -> None:
    program = start(_THREE)
    for line in ("forked", "started", "done"):
        for _ in range(3):
            program.until(line)
    lines = [line.split() for line in (tmp_path / "notes.txt").read_text().splitlines()]
    inside = most = 0
    for what, *_ in lines:
        inside += 1 if what == "begin" else -1
        most = max(most, inside)
    assert (len(lines), most, inside) == (60, 2, 0)


@pytest.mark.timeout(60)
def test_a_place_whose_process_was_killed_goes_to_one_that_waits(start: Start, url: str) -> None:
    program = start(_HOLDER)
    app = Celery("program")
    app.conf.update(result_backend=f"db+{url}", celerylite_beat="off", celerylite_lease=2.0)

    @app.task(name="stay", concurrency_limit=1)
    def stay(x: int) -> int:
        return x

    with closing(app):
        program.until("begun")
        app.start_runtime()
        waits = stay.delay(1)
        assert waits.state == "PENDING"
        program.process.kill()
        program.process.wait()
        assert waits.get(timeout=PROGRAM_DEADLINE_S) == 1
