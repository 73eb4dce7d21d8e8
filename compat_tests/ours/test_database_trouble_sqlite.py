"""An SQLite file that is locked, or cannot grow, under a running app: nothing is lost, and it goes on."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu.exceptions import OperationalError

from celerylite import Celery
from compat_tests.ours.runtime_fixtures import (
    DEADLINE_S,
    PRELUDE,
    Gate,
    MakeApp,
    Program,
    StartProgram,
    rows,
    states_of,
)
from compat_tests.ours.trouble_fixtures import Told, told

__all__ = ("told",)

#: Seconds that a call of the tests tries to reach the database.
_PATIENCE_S = 0.3


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app(celerylite_beat="off", broker_connection_timeout=_PATIENCE_S)


@pytest.fixture
def locker(start_program: StartProgram, app: Celery) -> Iterator[Program]:
    """Another process that locks the file when told to, and lets it go when told again."""
    assert app.store is not None
    program = start_program(
        """
import sqlite3
connection = sqlite3.connect(sys.argv[1], timeout=10, isolation_level=None)
while sys.stdin.readline():
    connection.execute("BEGIN EXCLUSIVE")
    say("locked")
    sys.stdin.readline()
    connection.execute("COMMIT")
    say("free")
""",
        str(app._database.url.removeprefix("sqlite:///")),
        name="locker",
    )
    yield program
    program.close()


def lock(locker: Program) -> None:
    locker.tell()
    locker.until("locked")


def free(locker: Program) -> None:
    locker.tell()
    locker.until("free")


def test_a_running_task_settles_when_the_file_is_free_again(
    app: Celery, locker: Program, gate: Gate, told: Told
) -> None:
    @app.task
    def wait(number: int) -> int:
        gate.wait()
        return number

    results = [wait.delay(number) for number in range(3)]
    gate.until_arrived(3)
    lock(locker)
    gate.open()
    told.until("does not answer")
    assert [result.state for result in results] == ["PENDING"] * 3
    free(locker)
    assert [result.get(timeout=DEADLINE_S) for result in results] == [0, 1, 2]
    assert app.store.unfinished() == {}
    assert [line.split(",")[0] for line in told.lines] == [
        "the database does not answer",
        "the database answers again",
    ]


def test_a_call_raises_within_its_time_while_the_file_is_locked(app: Celery, locker: Program) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert add.delay(1, 2).get(timeout=DEADLINE_S) == 3
    lock(locker)
    began = time.monotonic()
    with pytest.raises(OperationalError, match="database is locked"):
        add.delay(3, 4)
    assert time.monotonic() - began < _PATIENCE_S + 2.0
    free(locker)
    assert add.delay(5, 6).get(timeout=DEADLINE_S) == 11


def test_a_short_lock_is_waited_for(app: Celery, locker: Program, told: Told) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    app.conf.broker_connection_timeout = DEADLINE_S
    lock(locker)
    locker.tell()
    assert add.delay(1, 2).get(timeout=DEADLINE_S) == 3
    assert told.lines == []


def test_a_disk_that_is_full_for_a_while_loses_nothing(start_program: StartProgram) -> None:
    # The limit of the system on the size of a file stands for the disk.
    program = start_program(
        """
import logging, resource
from kombu.exceptions import OperationalError
logging.basicConfig(level=logging.WARNING, format="LOG %(message).40s", stream=sys.stdout)
app.conf.update(broker_connection_timeout=0.3)
arrived, go = threading.Event(), threading.Event()

@app.task
def wait(number):
    arrived.set()
    assert go.wait(10)
    return number

result = wait.delay(7)
assert arrived.wait(10)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
for _ in range(3):
    try:
        wait.delay(8)
    except OperationalError:
        say("refused")
go.set()
say("full")
sys.stdin.readline()
say("state", result.state)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
say("got", result.get(timeout=10))
say("left", app.store.unfinished())
say("again", wait.delay(9).get(timeout=10))
"""
    )
    program.until("full")
    program.tell()
    assert program.until("state") == "state PENDING"
    assert program.until("got") == "got 7"
    assert program.until("left") == "left {}"
    assert program.until("again") == "again 9"
    assert program.end() == 0
    assert program.lines.count("refused") == 3
    assert [line for line in program.lines if line.startswith("LOG")] == [
        "LOG the database does not answer, waiting fo",
        "LOG the database answers again",
    ]


# -- a file that cannot be written any more --------------------------------------------------------------

#: A root that the modes of files bind too.
_BOUND = """
import os, sys
if os.geteuid() == 0 and "BOUND" not in os.environ:
    os.environ["BOUND"] = "1"
    powers = "-dac_override,-dac_read_search"
    os.execvp("setpriv", ["setpriv", f"--bounding-set={powers}", sys.executable, *sys.argv])
"""


@pytest.mark.skipif(os.geteuid() == 0 and not shutil.which("setpriv"), reason="root writes every file")
def test_a_file_that_is_made_read_only_under_a_running_app_loses_nothing(start_program: StartProgram) -> None:
    program = start_program(
        """
import logging
from kombu.exceptions import OperationalError
logging.basicConfig(level=logging.WARNING, format="LOG %(message).40s", stream=sys.stdout)
app.conf.update(broker_connection_timeout=0.3)
directory = Path("data")
directory.mkdir()
app.conf.result_backend = f"db+sqlite:///{directory.absolute()}/tasks.sqlite3"
arrived, go = threading.Event(), threading.Event()

@app.task
def wait(number):
    arrived.set()
    assert go.wait(10)
    return number

def make(of_files, of_directory):
    directory.chmod(0o755)
    for file in directory.iterdir():
        file.chmod(of_files)
    directory.chmod(of_directory)

result = wait.delay(7)
assert arrived.wait(10)
make(0o444, 0o555)
# A fork closes the connections that can still write: those that follow are made on a file that cannot.
child = os.fork()
if not child:
    os._exit(0)
os.waitpid(child, 0)
for _ in range(3):
    try:
        wait.delay(8)
    except OperationalError:
        say("refused")
go.set()
say("closed")
sys.stdin.readline()
make(0o644, 0o755)
say("got", result.get(timeout=10))
say("left", app.store.unfinished())
say("again", wait.delay(9).get(timeout=10))
""",
        prelude=_BOUND + PRELUDE,
    )
    program.until("closed")
    program.tell()
    assert program.until("got") == "got 7"
    assert program.until("left") == "left {}"
    assert program.until("again") == "again 9"
    assert program.end() == 0
    assert program.lines.count("refused") == 3
    assert [line for line in program.lines if line.startswith("LOG")] == [
        "LOG the database does not answer, waiting fo",
        "LOG the database answers again",
    ]


# -- a file that is deleted or replaced ------------------------------------------------------------------


def unlink(database: Path, ends: str) -> None:
    for end in ends.split(","):
        Path(f"{database}{end}").unlink(missing_ok=True)


@pytest.mark.parametrize("ends", ["", ",-wal,-shm"])
def test_a_file_that_is_deleted_under_a_running_app_is_put_back(
    app: Celery, database: Path, gate: Gate, told: Told, ends: str
) -> None:
    @app.task
    def wait(number: int) -> int:
        gate.wait()
        return number

    before, running = wait.apply_async((1,), countdown=3600), wait.delay(2)
    gate.until_arrived(1)
    unlink(database, ends)
    gate.open()
    after = wait.delay(3)
    assert [result.get(timeout=DEADLINE_S) for result in (running, after)] == [2, 3]
    assert rows(database, "select task_id from celerylite_messages") == [(before.id,)]
    assert states_of(database) == {running.id: "SUCCESS", after.id: "SUCCESS"}
    assert rows(database, "pragma integrity_check") == [("ok",)]
    assert [line.rpartition(": ")[2] for line in told.lines] == ["it was put back with all that was in it"]


def test_a_deleted_file_is_put_back_without_a_call(app: Celery, database: Path, told: Told) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = add.delay(1, 2)
    assert result.get(timeout=DEADLINE_S) == 3
    unlink(database, ",-wal,-shm")
    told.until("put back")
    assert states_of(database) == {result.id: "SUCCESS"}


def test_two_processes_whose_file_is_deleted_meet_in_the_one_that_was_put_back(
    app: Celery, database: Path, start_program: StartProgram
) -> None:
    @app.task(name="program.double")
    def double(number: int) -> int:
        return 2 * number

    program = start_program(
        """
app.conf.celerylite_runtime = "off"
double = app.signature("program.double")
for line in sys.stdin:
    say("sent", double.clone((int(line),)).delay().id)
"""
    )
    ids = []
    for number in range(30):
        program.tell(str(number))
        ids.append(program.until("sent").split()[1])
        double.delay(number)
        if number % 10 == 5:
            unlink(database, ",-wal,-shm")
    values = [app.AsyncResult(task_id).get(timeout=DEADLINE_S) for task_id in ids]
    assert values == [2 * number for number in range(30)]
    app.drain(DEADLINE_S)
    assert len(states_of(database)) == 60


def test_a_file_that_is_replaced_is_used_from_then_on(app: Celery, database: Path, told: Told) -> None:
    @app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert add.delay(1, 2).get(timeout=DEADLINE_S) == 3
    copy = database.with_name("empty")
    copy.touch()
    unlink(database, "-wal,-shm")
    copy.replace(database)
    result = add.delay(3, 4)
    assert result.get(timeout=DEADLINE_S) == 7
    assert states_of(database) == {result.id: "SUCCESS"}
    told.until("going on with the one there is now")
