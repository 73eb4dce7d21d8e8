"""Publishing at moments when a runtime is being started or stopped, or when the program ends."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, signals
from celerylite._store import MessageState
from compat_tests.conftest import Journal
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, StartProgram, rows


def keepers() -> int:
    return sum(thread.name == "celerylite-keeper" for thread in threading.enumerate())


@pytest.mark.parametrize("signal", ["worker_init", "worker_process_init"])
def test_a_receiver_that_publishes_while_the_runtime_starts_starts_no_other(
    file_app: Celery, receive: Any, journal: Journal, signal: str
) -> None:
    @file_app.task
    def note(word: str) -> None:
        journal.note(word)

    receive(getattr(signals, signal), lambda **_: note.delay("first"))
    note.delay("second")
    journal.until("first")
    journal.until("second")
    assert journal.count("first") == 1
    assert keepers() == 1


def test_a_task_that_publishes_while_the_runtime_stops_does_not_start_another(
    file_app: Celery, gate: Gate
) -> None:
    @file_app.task
    def after() -> None: ...

    @file_app.task
    def work() -> None:
        gate.wait()
        after.delay()

    work.delay()
    gate.until_arrived(1)
    runtime = file_app._runtime
    assert runtime is not None
    stopping = threading.Thread(target=file_app.stop_runtime)
    stopping.start()
    assert runtime.stop_event.wait(DEADLINE_S)
    gate.open()
    stopping.join(DEADLINE_S)
    assert file_app._runtime is None
    assert file_app.store.unfinished() == {MessageState.READY: 1}


@pytest.mark.parametrize("is_used_before", [True, False])
def test_what_a_program_publishes_as_it_ends_waits_for_the_next_start(
    start_program: StartProgram, database: Path, is_used_before: bool
) -> None:
    program = start_program(
        f"""
import atexit
@app.task
def last(): say("ran")
@app.task
def first(): pass
atexit.register(last.delay)
if {is_used_before}:
    first.delay()
"""
    )
    assert program.end() == 0, program.errors
    # In any other state the next start would find it lost.
    assert rows(database, "select name, state from celerylite_messages") == [
        ("program.last", MessageState.READY)
    ]
    assert "ran" not in program.lines
