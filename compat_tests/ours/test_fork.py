"""Children of a process whose runtime is running: by os.fork, multiprocessing, and a pre-forking server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from celerylite._store import MessageState
from compat_tests.ours.runtime_fixtures import PRELUDE, StartProgram, rows, states_of

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")

#: A parent with a running runtime; `work` tells in which process it ran.
PARENT = """
@app.task(name="work")
def work(n):
    say("ran", n, os.getpid())
    return n
@app.task(name="work_async")
async def work_async(n):
    say("ran", n, os.getpid())
    return n
assert work.delay(0).get(timeout=10) == 0
assert work_async.delay(0).get(timeout=10) == 0
parent = os.getpid()
"""


def ran(lines: list[str]) -> dict[str, list[int]]:
    """The processes in which each call ran."""
    found: dict[str, list[int]] = {}
    for line in lines:
        if line.startswith("ran "):
            _, n, pid = line.split()
            found.setdefault(n, []).append(int(pid))
    return found


def test_a_forked_child_publishes_and_runs_on_its_own(start_program: StartProgram, database: Path) -> None:
    program = start_program(
        PARENT
        + """
pid = os.fork()
if pid == 0:
    assert app._runtime is None
    say("child", work.delay(1).get(timeout=10), work_async.delay(2).get(timeout=10))
    app.close()
    os._exit(0)
say("parent", work.delay(3).get(timeout=10), work_async.delay(4).get(timeout=10))
say("status", os.waitpid(pid, 0)[1])
say("parent", work.delay(5).get(timeout=10))
say("pids", parent, pid)
"""
    )
    assert program.end() == 0
    assert program.errors == ""
    assert {"child 1 2", "parent 3 4", "parent 5", "status 0"} <= set(program.lines)
    parent, child = map(int, program.until("pids").split()[1:])
    runs = ran(program.lines)
    assert {n: len(pids) for n, pids in runs.items()} == {"0": 2, **{str(n): 1 for n in range(1, 6)}}
    assert runs["3"] == runs["5"] == [parent]
    assert runs["1"][0] in (child, parent)
    assert set(states_of(database).values()) == {"SUCCESS"}


def test_forks_while_tasks_run_neither_hang_nor_run_anything_twice(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program(
        PARENT
        + """
stop = threading.Event()
def publish():
    n = 100
    while not stop.is_set():
        n += 1
        work.delay(n)
        work_async.apply_async((n + 100000,))
publisher = threading.Thread(target=publish)
publisher.start()
for n in range(1, 7):
    pid = os.fork()
    if pid == 0:
        say("child", work.delay(n).get(timeout=10))
        app.close()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
publisher.join()
app.drain(10)
"""
    )
    assert program.end() == 0
    assert program.errors == ""
    runs = ran(program.lines)
    del runs["0"]
    assert {n: len(pids) for n, pids in runs.items() if len(pids) != 1} == {}
    assert {f"child {n}" for n in range(1, 7)} <= set(program.lines)
    assert set(states_of(database).values()) == {"SUCCESS"}


def test_a_child_that_exits_normally_finishes_what_it_published(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program(
        PARENT
        + """
pid = os.fork()
if pid == 0:
    for n in range(1, 6):
        work.delay(n)
    sys.exit(3)
say("status", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    )
    assert program.end() == 0
    assert program.errors == ""
    assert "status 3" in program.lines
    assert {n: len(pids) for n, pids in ran(program.lines).items()} == {
        "0": 2,
        **{str(n): 1 for n in range(1, 6)},
    }
    assert set(states_of(database).values()) == {"SUCCESS"}


def test_a_multiprocessing_child_finishes_what_it_published(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program(
        PARENT
        + """
import multiprocessing
def child(n):
    for _ in range(4):
        n += 1
        work.delay(n)
context = multiprocessing.get_context("fork")
children = [context.Process(target=child, args=(start,)) for start in (10, 20, 30)]
for each in children:
    each.start()
for each in children:
    each.join()
say("codes", *[each.exitcode for each in children])
app.drain(10)
"""
    )
    assert program.end() == 0
    assert program.errors == ""
    assert "codes 0 0 0" in program.lines
    runs = ran(program.lines)
    assert {n: len(pids) for n, pids in runs.items() if n != "0"} == {
        str(n): 1 for start in (10, 20, 30) for n in range(start + 1, start + 5)
    }
    assert set(states_of(database).values()) == {"SUCCESS"}


def test_a_process_pool_publishes_from_its_children(start_program: StartProgram, database: Path) -> None:
    program = start_program(
        PARENT
        + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
def child(n):
    return work.delay(n).get(timeout=10)
with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
    say("values", *pool.map(child, range(1, 9)))
"""
    )
    assert program.end() == 0
    assert program.errors == ""
    assert "values 1 2 3 4 5 6 7 8" in program.lines
    assert set(states_of(database).values()) == {"SUCCESS"}


def test_a_task_may_use_a_process_pool(start_program: StartProgram, database: Path) -> None:
    program = start_program(
        PARENT
        + """
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
def double(n):
    return n * 2
@app.task
def with_pool():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        return sum(pool.map(double, range(4)))
say("sum", with_pool.delay().get(timeout=10))
"""
    )
    assert program.end() == 0
    assert program.errors == ""
    assert "sum 12" in program.lines


def test_an_app_used_only_before_the_fork_works_in_every_child(
    start_program: StartProgram, tmp_path: Path, database: Path
) -> None:
    """As gunicorn does with --preload: the master imports the app (and here even uses it), then forks."""
    (tmp_path / "preloaded.py").write_text(
        PRELUDE
        + """
app.conf.worker_concurrency = 2
@app.task(name="work")
def work(n):
    say("ran", n, os.getpid())
    return n
app.conf.celerylite_runtime = "off"
first = work.delay(0)
app.conf.celerylite_runtime = "auto"
"""
    )
    program = start_program("""
from preloaded import app, work
children = []
for number in (1, 2):
    pid = os.fork()
    if pid == 0:
        app.start_runtime()
        values = [work.delay(number * 10 + n).get(timeout=10) for n in range(3)]
        say("served", *values)
        sys.exit(0)
    children.append(pid)
say("codes", *[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children])
say("master", app._runtime)
""")
    assert program.end() == 0
    assert program.errors == ""
    assert {"served 10 11 12", "served 20 21 22", "codes 0 0", "master None"} <= set(program.lines)
    # What the master had published was run once, by one of its children.
    assert {n: len(pids) for n, pids in ran(program.lines).items()} == {
        str(n): 1 for n in (0, 10, 11, 12, 20, 21, 22)
    }


def test_a_child_killed_in_the_middle_leaves_its_calls_to_the_parent(
    start_program: StartProgram, database: Path
) -> None:
    program = start_program(
        """
app.conf.celerylite_lease = 1.0
"""
        + PARENT
        + """
@app.task(name="late", acks_late=True)
def late():
    if os.getpid() != parent:
        say("in the child")
        threading.Event().wait(60)
    return "parent"
app.start_runtime()
pid = os.fork()
if pid == 0:
    app.start_runtime(queues=["child"])
    late.apply_async(queue="child", task_id="the one")
    threading.Event().wait(60)
sys.stdin.readline()
os.kill(pid, 9)
os.waitpid(pid, 0)
say("value", app.AsyncResult("the one").get(timeout=12))
"""
    )
    program.until("in the child")
    program.tell()
    assert program.until("value") == "value parent"
    assert rows(database, "select 1 from celerylite_messages where state = ?", MessageState.RUNNING) == []
