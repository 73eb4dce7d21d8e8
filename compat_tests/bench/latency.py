"""How soon a task that one process publishes starts in another."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import sqlalchemy as sa

__all__ = ("LIMITS_MS", "start_latency")

#: What the median may be, in milliseconds.
LIMITS_MS = {"SQLite": 100.0, "PostgreSQL": 50.0, "MariaDB/MySQL": 300.0}

_SERVERS = {
    "PostgreSQL": os.environ.get("CELERYLITE_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432/test"),
    "MariaDB/MySQL": os.environ.get("CELERYLITE_TEST_MYSQL", "mysql+pymysql://root@127.0.0.1:3306/test"),
}
_DRIVERS = {"PostgreSQL": "postgresql+psycopg", "MariaDB/MySQL": "mysql+pymysql"}

_APP = """
import sys, threading, time
from celerylite import Celery
app = Celery("bench")
app.conf.update(result_backend="db+" + sys.argv[1], celerylite_beat="off")

@app.task(ignore_result=True)
def note(sent):
    print(time.time() - sent, flush=True)
"""

#: Runs what others publish, until its input ends.
_WORKER = (
    _APP
    + """
app.start_runtime()
print("ready", flush=True)
sys.stdin.read()
app.close()
"""
)

#: Only publishes: one call for each line of its input.
_WEB = (
    _APP
    + """
app.conf.celerylite_runtime = "off"
app.store
print("ready", flush=True)
for line in sys.stdin:
    note.delay(time.time())
app.close()
"""
)


def start_latency(rounds: int) -> None:
    """Seconds from `delay()` in a process that only publishes to the first line of the task in another."""
    print("\nstart in another process (ms from the call of delay() to the task's first line)")
    for name, limit_ms in LIMITS_MS.items():
        try:
            with _database(name) as url:
                numbers = [1000 * number for number in _measure(url, 4 * rounds)]
        except sa.exc.OperationalError:
            print(f"  {name:<24} does not answer here")
            continue
        numbers.sort()
        median, p95 = statistics.median(numbers), numbers[int(len(numbers) * 0.95)]
        verdict = "ok" if median < limit_ms else "TOO SLOW"
        print(
            f"  {name:<24} median {median:7.1f}   p95 {p95:7.1f}   max {numbers[-1]:7.1f}"
            f"   limit {limit_ms:5.0f}   {verdict}"
        )


def _measure(url: str, times: int) -> list[float]:
    with _program(_WORKER, url) as worker, _program(_WEB, url) as web:
        assert worker.stdout is not None
        assert web.stdin is not None
        numbers = []
        for _ in range(times):
            # One at a time and with a pause in between, so that the worker has become quiet again.
            subprocess.run(["sleep", "0.4"], check=True)
            web.stdin.write("go\n")
            web.stdin.flush()
            numbers.append(float(worker.stdout.readline()))
        return numbers


@contextmanager
def _program(source: str, url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", source, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()


@contextmanager
def _database(name: str) -> Iterator[str]:
    if name not in _SERVERS:
        with tempfile.TemporaryDirectory() as directory:
            yield f"sqlite:///{directory}/bench.sqlite3"
        return
    url, own = sa.make_url(_SERVERS[name]), f"bench_{uuid.uuid4().hex[:12]}"
    server = sa.create_engine(
        url.set(drivername=_DRIVERS[name]), isolation_level="AUTOCOMMIT", poolclass=sa.pool.NullPool
    )
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {own}")
        try:
            yield url.set(database=own).render_as_string(hide_password=False)
        finally:
            connection.exec_driver_sql(f"DROP DATABASE {own}")
