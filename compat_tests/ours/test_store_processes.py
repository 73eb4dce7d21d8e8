"""The store between processes: claims, crashes, forks, and everybody creating the schema at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from celerylite import _store
from celerylite._store import MessageState, processes
from celerylite._store.sql import SqlStore
from compat_tests.ours.store_fixtures import (
    Opener,
    join,
    make_url,
    opener,
    out,
    soon,
    started,
    store,
)

__all__ = ("opener", "store")

ROOT = Path(__file__).parents[2]

#: What every program here begins with. It says "ready" when it stands and goes on at a line of input.
PRELUDE = """
import os, sys, threading
from celerylite import _store
from celerylite._store import Settlement, ResultRow, processes
from compat_tests.ours.store_fixtures import join, out, soon, success
store = _store.open_store(sys.argv[1])
def say(*words):
    print(*words, flush=True)
"""

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture(params=["sqlite", "postgresql", "mysql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield from make_url(request.param, tmp_path)


@pytest.fixture
def start(url: str) -> Iterator[Start]:
    """Starts a Python program against the database; kills what is left at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(program: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + program, url],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def test_processes_that_create_the_schema_at_once_all_succeed(start: Start, opener: Opener) -> None:
    # The prelude opens the store: three processes race for an empty database.
    programs = [start("store.publish([out()]); say('done')") for _ in range(3)]
    assert [line(each) for each in programs] == ["done"] * 3
    assert opener().queue_lengths() == {"celery": 3}


def test_processes_that_claim_together_never_get_the_same_message(store: SqlStore, start: Start) -> None:
    store.publish([out(str(i)) for i in range(400)])
    program = """
join(store, f"owner-{os.getpid()}")
say("ready")
sys.stdin.readline()
mine = []
while store.queue_lengths():
    mine += [each.message.id for each in store.claim(f"owner-{os.getpid()}", ["celery"], 5).deliveries]
say(*mine)
"""
    claimers = [start(program) for _ in range(3)]
    assert [line(each) for each in claimers] == ["ready"] * 3
    for each in claimers:
        go(each)
    claimed = [word for each in claimers for word in line(each).split()]
    assert sorted(claimed, key=int) == [str(i) for i in range(400)]


def test_processes_that_settle_parts_of_the_same_chords_send_each_body_once(
    store: SqlStore, start: Start
) -> None:
    store.publish([out(str(i), queue="parts") for i in range(120)])
    program = """
from concurrent.futures import ThreadPoolExecutor
owner = f"owner-{os.getpid()}"
join(store, owner)
say("ready")
sys.stdin.readline()
def settle(delivery):
    number = int(delivery.message.id)
    # In opposite orders, so that transactions meet head-on.
    groups = range(4) if number % 2 else reversed(range(4))
    parts = tuple(
        _store.ChordPart(group_id=f"g{g}", size=120, index=number, task_id=str(number), state="SUCCESS")
        for g in groups
    )
    store.settle(success(delivery, chord_parts=parts, on_chord_complete=lambda g: out(g, queue="bodies")))
with ThreadPoolExecutor(4) as pool:
    while "parts" in store.queue_lengths():
        list(pool.map(settle, store.claim(owner, ["parts"], 8).deliveries))
say("done")
"""
    settlers = [start(program) for _ in range(3)]
    assert [line(each) for each in settlers] == ["ready"] * 3
    for each in settlers:
        go(each)
    assert [line(each) for each in settlers] == ["done"] * 3
    assert sorted(each.message.id for each in store.waiting(100)) == ["g0", "g1", "g2", "g3"]
    assert all(len(store.chord_parts(f"g{g}")) == 120 for g in range(4))


def test_what_publish_returned_for_survives_a_kill(store: SqlStore, start: Start) -> None:
    publisher = start("""
number = 0
while True:
    store.publish([out(str(number))])
    say(number)
    number += 1
""")
    for _ in range(30):
        last = int(line(publisher))
    publisher.send_signal(signal.SIGKILL)
    publisher.wait()
    found = {each.message.id for each in store.waiting(100_000)}
    assert found >= {str(i) for i in range(last + 1)}
    assert found == {str(i) for i in range(len(found))}


def test_a_process_killed_in_the_middle_of_settling_leaves_the_task_to_be_rescued(
    store: SqlStore, start: Start
) -> None:
    victim = start("""
join(store, "victim")
delivery = store.publish([out("t", owner="victim", running=True)])[0]
statements = []
def stop_at_the_third(sql):
    statements.append(sql)
    if len(statements) == 3:
        say("inside")
        threading.Event().wait()
store.database.on_statement = stop_at_the_third
store.settle(success(delivery, publish=(out("next"), out("another"))))
""")
    assert line(victim) == "inside"
    assert store.get_result("t") is None
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert [each.message.id for each in store.rescue("me", processes.is_gone)] == ["t"]
    assert store.get_result("t") is None
    assert store.unfinished() == {MessageState.RUNNING: 1}


def test_a_living_process_is_not_rescued_but_one_that_reuses_its_pid_is_not_it(
    store: SqlStore, start: Start
) -> None:
    living = start('join(store, "living"); say("ready"); sys.stdin.readline()')
    assert line(living) == "ready"
    started(store, "t", "living")
    assert store.rescue("me", processes.is_gone) == []
    (row,) = (each for each in store.workers() if each.owner == "living")
    if row.pid_started is None:
        pytest.skip("this system does not tell when a process started")
    join(store, "living", pid=living.pid, pid_started=row.pid_started + 1)
    assert [each.message.id for each in store.rescue("me", processes.is_gone)] == ["t"]


def test_a_forked_child_has_connections_of_its_own(store: SqlStore, start: Start) -> None:
    forker = start("""
store.publish([out("before")])
waiting = threading.Event()
end = store.on_new_messages(waiting.set)
child = os.fork()
if child == 0:
    store.publish([out("child")])
    store.after_fork()  # a second time, which changes nothing
    soon(store.publish_soon, [out("child-soon")]).result(10)
    store.close()
    os._exit(0)
status = os.waitpid(child, 0)[1]
store.publish([out("parent")])
end()
store.close()
say("status", status, threading.active_count())
""")
    assert line(forker) == "status 0 1"
    assert {each.message.id for each in store.waiting(10)} == {"before", "child", "child-soon", "parent"}


def test_what_a_child_commits_after_its_parent_has_closed_the_database_is_kept(
    store: SqlStore, opener: Opener, start: Start
) -> None:
    store.close()
    forker = start("""
store.publish([out("before")])
store.queue_lengths()
read, write = os.pipe()
child = os.fork()
if child == 0:
    store.publish([out("early")])
    os.read(read, 1)
    store.publish([out("late")])
    os._exit(0)
store.close()
os.write(write, b"x")
say("status", os.waitpid(child, 0)[1])
""")
    assert line(forker) == "status 0"
    assert {each.message.id for each in opener().waiting(10)} == {"before", "early", "late"}


def test_a_result_wakes_a_waiter_in_another_process(store: SqlStore, start: Start) -> None:
    waiter = start("""
with store.watch("t") as watch:
    say("watching")
    while store.get_result("t") is None:
        assert watch.wait(10)
say("seen")
""")
    assert line(waiter) == "watching"
    store.save_result(_store.ResultRow(task_id="t", status="SUCCESS"))
    assert line(waiter) == "seen"


def test_a_writer_is_not_stopped_by_a_thread_that_closes_the_store(store: SqlStore) -> None:
    futures = [soon(store.publish_soon, [out(str(i))]) for i in range(100)]
    store.close()
    assert all(future.done() for future in futures)
    assert not [each for each in threading.enumerate() if each.name.startswith("celerylite-")]
