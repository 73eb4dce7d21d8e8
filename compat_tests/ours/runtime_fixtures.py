"""Apps with a database of their own, and whole programs: what the tests of the runtime start."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery

ROOT = Path(__file__).parents[2]

#: Seconds after which something that should have happened counts as not happening.
DEADLINE_S = 10.0
#: The same for programs, which may have to import and to finish first, on a machine that does much else.
PROGRAM_DEADLINE_S = 40.0

MakeApp = Callable[..., Celery]
StartProgram = Callable[..., "Program"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The SQLite file of the test."""
    return tmp_path / "tasks.sqlite3"


@pytest.fixture
def make_app(database: Path) -> Iterator[MakeApp]:
    """Make apps over the database of the test, `make_app(setting=value, ...)`; closed afterwards."""
    with ExitStack() as stack:

        def make(name: str = "tests", **settings: Any) -> Celery:
            app = Celery(name)
            app.conf.update({"result_backend": f"db+sqlite:///{database}", "celerylite_exit_grace": 5.0})
            app.conf.update(settings)
            stack.callback(app.close)
            return app

        yield make


@pytest.fixture
def file_app(make_app: MakeApp) -> Celery:
    """An app over an empty database; its runtime starts with the first call."""
    return make_app()


class Gate:
    """Holds tasks back until the test lets them go on, and tells how many have come."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._arrived = 0
        self._open = False
        #: The most that were inside at once.
        self.most = 0
        self._inside = 0

    def wait(self) -> None:
        """Called by a task: stay here until the gate is open."""
        with self._changed:
            self._arrived += 1
            self._inside += 1
            self.most = max(self.most, self._inside)
            self._changed.notify_all()
            opened = self._changed.wait_for(lambda: self._open, DEADLINE_S)
            self._inside -= 1
        assert opened, "expected the test to open the gate"

    def until_arrived(self, number: int) -> None:
        """Wait until so many tasks have come."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: self._arrived >= number, DEADLINE_S)
            assert arrived, f"expected {number} tasks at the gate, got {self._arrived}"

    @property
    def arrived(self) -> int:
        """How many tasks have come so far."""
        with self._changed:
            return self._arrived

    def open(self) -> None:
        """Let every task go on, those here and those to come."""
        with self._changed:
            self._open = True
            self._changed.notify_all()


@pytest.fixture
def gate() -> Iterator[Gate]:
    """A closed gate, opened at the end so that no task outlives the test."""
    gate = Gate()
    yield gate
    gate.open()


class Program:
    """A Python program that a test started; what it prints are the events to wait for."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        #: Everything it has printed so far.
        self.lines: list[str] = []
        self._unasked: list[str] = []
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._errors: list[str] = []
        self._wrote = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read_lines, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_lines(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.strip())
        self._queue.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._wrote:
                self._errors.append(line)
                self._wrote.notify_all()

    def until_error(self, part: str) -> None:
        """Wait until a line of standard error has that in it."""
        with self._wrote:
            written = self._wrote.wait_for(
                lambda: any(part in line for line in self._errors), PROGRAM_DEADLINE_S
            )
            assert written, f"expected {part!r} in standard error, got {self._errors}"

    def until(self, start: str) -> str:
        """Wait for a line that begins so, and return it; each line is returned once."""
        while True:
            for line in self._unasked:
                if line.startswith(start):
                    self._unasked.remove(line)
                    return line
            if self._next() is None:
                raise AssertionError(
                    f"expected a line {start!r}, got {self.lines!r}, the end and {self.errors}"
                )

    def _next(self) -> str | None:
        try:
            line = self._queue.get(timeout=PROGRAM_DEADLINE_S)
        except queue.Empty:
            raise AssertionError(f"expected another line than {self.lines!r} in time") from None
        if line is not None:
            self.lines.append(line)
            self._unasked.append(line)
        return line

    def tell(self, line: str = "go") -> None:
        """Write a line to the program's standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """End it as the OOM killer would, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PROGRAM_DEADLINE_S)

    def terminate(self) -> None:
        """Ask it to stop (SIGTERM)."""
        self.process.send_signal(signal.SIGTERM)

    def end(self) -> int:
        """Wait until it has ended by itself; its exit code. All its lines are in `lines` then."""
        code = self.process.wait(PROGRAM_DEADLINE_S)
        while self._next() is not None:
            pass
        return code

    @property
    def errors(self) -> str:
        """What it wrote to standard error; complete once it has ended."""
        if self.process.poll() is not None:
            self._readers[1].join(DEADLINE_S)
        return "".join(self._errors)

    def close(self) -> None:
        """Kill it if it still runs, and read what is left."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PROGRAM_DEADLINE_S)
        for reader in self._readers:
            reader.join(DEADLINE_S)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


#: What every program of a test begins with.
PRELUDE = r"""
import os, sys, threading, time
from pathlib import Path
from celerylite import Celery, chain, chord, group
app = Celery("program")
app.conf.update(celerylite_beat="off")
def say(*words):
    # One write: several threads say something.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()
"""


@pytest.fixture
def start_program(tmp_path: Path, database: Path) -> Iterator[StartProgram]:
    """Start a program: `start_program(code, name, *arguments)`, in its own file, over the test's database."""
    programs: list[Program] = []

    def start(code: str, *arguments: str, name: str = "program", prelude: str = PRELUDE) -> Program:
        file = tmp_path / f"{name}.py"
        file.write_text(prelude + code)
        return run([sys.executable, str(file), *arguments])

    def run(command: list[str]) -> Program:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
        environment |= {
            "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}",
            "CELERYLITE_DATABASE": f"sqlite:///{database}",
        }
        process = subprocess.Popen(
            command,
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
        program.close()


def rows(database: Path, statement: str, *values: Any) -> list[Any]:
    """What a statement finds in the SQLite file, as somebody with a database browser sees it."""
    connection = sqlite3.connect(database, timeout=DEADLINE_S)
    try:
        with connection:
            return connection.execute(statement, values).fetchall()
    finally:
        connection.close()


def states_of(database: Path) -> dict[str, str]:
    """The state of every result."""
    return dict(rows(database, "select task_id, status from celery_taskmeta"))
