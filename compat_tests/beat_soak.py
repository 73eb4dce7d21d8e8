"""A soak of the schedule: many processes on one database, one killed every so often; each tick counted.

``python -m compat_tests.beat_soak --database postgresql+psycopg://... --seconds 300``
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa

__all__ = ("Count", "main", "soak")

_ROOT = Path(__file__).parents[1]

#: A tick that was due so shortly before the end may or may not have been fired.
_AT_THE_END_S = 2.5
#: No process is killed so shortly before the end: whoever takes over needs its moment.
_QUIET_S = 5.0

#: The program of every process. Its tasks are repeated when their process is killed, under the same id.
_PROJECT = """
import os, time
from celerylite import Celery
from celerylite.schedules import crontab

app = Celery("soak")
app.conf.update(
    result_expires=None,
    beat_schedule={
        "every second": {"task": "note", "schedule": 1.0, "args": ["second"], "catch_up": "all"},
        "every minute": {"task": "note", "schedule": crontab(), "args": ["minute"]},
    },
)
journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.task(name="note", bind=True, acks_late=True, max_retries=None)
def note(self, entry):
    due = self.request.get("celerylite_due_at")
    os.write(journal, f"{entry} {due} {self.request.id} {time.time()}\\n".encode())
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fired:
    """One run of a task, as it was noted."""

    entry: str
    due_at: float
    task_id: str
    started_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Count:
    """What became of the ticks of one entry."""

    entry: str
    expected: int
    once: int
    twice: int
    lost: int

    @property
    def is_right(self) -> bool:
        return self.expected > 0 and self.once == self.expected and self.twice == self.lost == 0


def soak(database: str, *, seconds: float, processes: int, kill_every: float) -> tuple[list[Count], str]:
    """Run the processes, kill and replace them in turn; what was counted, and a line about it."""
    with tempfile.TemporaryDirectory(prefix="beat_soak_") as folder, _own_database(database, folder) as url:
        (Path(folder) / "soaked.py").write_text(_PROJECT)
        crew = _Crew(Path(folder), url, processes)
        try:
            crew.keep_going(seconds, kill_every)
            ended_at = time.time()
            crew.stop()
            crew.finish_what_waits()
        finally:
            crew.kill_all()
        fired, errors = _read(Path(folder) / "journal"), crew.errors()
    late = sorted(each.started_at - each.due_at for each in _first_runs(fired))
    line = (
        f"{processes} processes, {crew.kills} killed; started after due: "
        f"median {_percentile(late, 50):.3f} s, p99 {_percentile(late, 99):.3f} s, max {late[-1]:.3f} s; "
        f"{len(errors)} errors logged"
    )
    return _count(fired, ended_at), "\n".join([line, *errors[:20]])


class _Crew:
    """Processes that run the tasks and fire the schedule."""

    def __init__(self, folder: Path, url: str, size: int) -> None:
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CELERY")},
            "CELERYLITE_DATABASE": url,
            "PYTHONPATH": os.pathsep.join((str(_ROOT), str(folder))),
        }
        self.kills = 0
        self._log = (folder / "log").open("ab")
        self._members = [self._start() for _ in range(size)]

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "celerylite", "-q", "-A", "soaked", "worker", "-c", "4"]
        return subprocess.Popen(
            [*command, "-B", "-l", "WARNING"],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )

    def keep_going(self, seconds: float, kill_every: float) -> None:
        # An event that nobody sets: real time is what this program is about.
        never, end, turn = threading.Event(), time.monotonic() + seconds, 0
        while (left := end - time.monotonic()) > 0:
            never.wait(min(kill_every, left))
            if end - time.monotonic() > _QUIET_S:
                self._replace(turn % len(self._members))
                turn += 1

    def _replace(self, number: int) -> None:
        victim = self._members[number]
        if victim.poll() is not None:
            raise RuntimeError(f"expected process {victim.pid} to run, got exit code {victim.returncode}")
        victim.kill()
        victim.wait()
        self.kills += 1
        self._members[number] = self._start()

    def stop(self) -> None:
        for member in self._members:
            member.terminate()
        for member in self._members:
            member.wait(60)

    def finish_what_waits(self) -> None:
        """Run what is left in the queue, with no schedule."""
        code = (
            "import soaked; soaked.app.conf.celerylite_beat = 'off'; "
            "soaked.app.start_runtime(); soaked.app.drain(60); soaked.app.close()"
        )
        subprocess.run(
            [sys.executable, "-c", code], cwd=self._folder, env=self._environment, check=True, timeout=90
        )

    def kill_all(self) -> None:
        for member in self._members:
            if member.poll() is None:
                member.send_signal(signal.SIGKILL)
                member.wait()
        self._log.close()

    def errors(self) -> list[str]:
        """What the processes complained about."""
        log = (self._folder / "log").read_text(errors="replace").splitlines()
        return [line for line in log if "ERROR" in line or "CRITICAL" in line]


@contextmanager
def _own_database(url: str, folder: str) -> Iterator[str]:
    """An empty database of ours on that server, dropped afterwards; a file in `folder` for SQLite."""
    base = sa.make_url(url)
    if base.get_backend_name() == "sqlite":
        yield f"sqlite:///{folder}/soak.sqlite3"
        return
    name = f"beat_soak_{uuid.uuid4().hex[:8]}"
    engine = sa.create_engine(base, isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool)
    on_postgresql = base.get_backend_name() == "postgresql"
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE {'SCHEMA' if on_postgresql else 'DATABASE'} {name}")
    own = base.set(database=name)
    if on_postgresql:
        own = base.update_query_dict({"options": f"-csearch_path={name}"})
    try:
        yield own.render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name}{' CASCADE' if on_postgresql else ''}")
        engine.dispose()


def _read(journal: Path) -> list[Fired]:
    fired = []
    for line in journal.read_text().splitlines():
        entry, due, task_id, started_at = line.split()
        due_at = datetime.fromisoformat(due).timestamp()
        fired.append(Fired(entry=entry, due_at=due_at, task_id=task_id, started_at=float(started_at)))
    return fired


def _first_runs(fired: Sequence[Fired]) -> list[Fired]:
    """Without what was run again because its process was killed."""
    first: dict[str, Fired] = {}
    for each in sorted(fired, key=lambda each: each.started_at):
        first.setdefault(each.task_id, each)
    return list(first.values())


def _count(fired: Sequence[Fired], ended_at: float) -> list[Count]:
    seconds = {each.due_at for each in fired if each.entry == "second"}
    # Both entries were first seen one interval before the first tick of the one that has a rhythm.
    began_at = min(seconds) - 1
    until = ended_at - _AT_THE_END_S
    rhythm = [round(began_at + n, 6) for n in range(1, int(until - began_at) + 1)]
    minutes = [minute * 60.0 for minute in range(int(began_at // 60) + 1, int(until // 60) + 1)]
    return [_compare("second", rhythm, fired, until), _compare("minute", minutes, fired, until)]


def _compare(entry: str, expected: Sequence[float], fired: Sequence[Fired], until: float) -> Count:
    # A tick that was published twice has two ids; one that was delivered twice has one.
    ids: dict[float, set[str]] = {}
    for each in fired:
        if each.entry == entry and each.due_at <= until:
            ids.setdefault(round(each.due_at, 3), set()).add(each.task_id)
    wanted = [round(due_at, 3) for due_at in expected]
    known = set(wanted)
    once = sum(len(ids.get(due_at, ())) == 1 for due_at in wanted)
    lost = sum(due_at not in ids for due_at in wanted)
    # One that nobody asked for is one too many as well.
    twice = sum(len(found) - (due_at in known) for due_at, found in ids.items())
    return Count(entry=entry, expected=len(wanted), once=once, twice=twice, lost=lost)


def _percentile(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def main() -> int:
    """Soak as the command line says; 1 when a tick was lost or fired twice."""
    parser = argparse.ArgumentParser(prog="python -m compat_tests.beat_soak")
    parser.add_argument("--database", default="sqlite://", help="URL of the server, or sqlite:// for a file")
    parser.add_argument("--seconds", type=float, default=300)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kill-every", type=float, default=20, help="seconds")
    options = parser.parse_args()
    counts, line = soak(
        options.database,
        seconds=options.seconds,
        processes=options.processes,
        kill_every=options.kill_every,
    )
    print(f"{sa.make_url(options.database).get_backend_name()}: {options.seconds:.0f} s, {line}")
    print(f"{'entry':<10}{'expected':>10}{'once':>8}{'twice':>8}{'lost':>8}")
    for count in counts:
        print(f"{count.entry:<10}{count.expected:>10}{count.once:>8}{count.twice:>8}{count.lost:>8}")
    return 0 if all(count.is_right or count.expected == 0 for count in counts) else 1


if __name__ == "__main__":
    sys.exit(main())
